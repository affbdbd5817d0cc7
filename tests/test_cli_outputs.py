"""Outputs that cannot be written are noticed before the work begins, and damaged results of a study are named."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.lab import runner, studies
from gta_ref.lm import train
from gta_ref.verify import exchange
from gta_ref.weights.official import read_state

SMALL = ["--steps", "2", "--batch", "1", "--length", "16", "--hidden-size", "32", "--n-layers", "1"]
NOWHERE = "/sys/kernel"  # on Linux, where not even root may write


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)


def one_line(result, path):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert f"gta-ref: {path}: " in result.stderr
    return result.stderr


@pytest.fixture
def no_work(monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(train, "take_step", work)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", work)


def bad_files(tmp_path):
    (tmp_path / "file").write_text("")
    found = [tmp_path / "none" / "a.x", tmp_path / "file" / "a.x", tmp_path]
    return [*found, Path(NOWHERE) / "a.x"] if os.path.isdir(NOWHERE) else found


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_train_notices_a_bad_output_before_it_trains(tmp_path, option, no_work):
    for path in bad_files(tmp_path):
        one_line(run("train", *SMALL, option, path), path)


def commands(group, words=()):
    """Every command with a file that it writes at its end, its words, and the names of the options for these files."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        for option in command.params:
            if option.name in ("json", "plot"):
                yield (*words, name), f"--{option.name}"


WRITERS = list(commands(get_command(cli.app)))


@pytest.mark.parametrize(
    "words, option", WRITERS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_command_notices_a_bad_output_before_it_works(tmp_path, words, option, monkeypatch):
    from gta_ref import threads

    def work():
        raise AssertionError("the work has begun")

    monkeypatch.setattr(threads, "check_environment", work)  # the first step of every command
    more = {"study": ["gate"], "generate": ["text"]}.get(words[0], [])
    for path in (tmp_path / "none" / "a.x", tmp_path):
        one_line(run(*words, *more, option, path), path)


def test_the_commands_with_outputs():
    """costs, tour, verify, vectors list, doctor, generate, train, maps, study and the benchmarks: none is left out."""
    assert len({words for words, _ in WRITERS}) >= 12
    assert (("study",), "--plot") in WRITERS


def test_a_resumed_run_notices_that_it_cannot_be_saved(tmp_path, no_work, monkeypatch):
    from gta_ref import files
    from gta_ref.lm import small
    from gta_ref.lm import text as texts

    path = tmp_path / "run.safetensors"
    begun = train.begin(small.config("gta", hidden_size=32, n_layers=1), train.Settings(), texts.standard_library())
    train.save(path, begun)

    def read_only(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "check_writable", read_only)
    assert "Permission denied" in one_line(run("train", "--resume", path), path)


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_study_notices_a_bad_output_before_it_trains(tmp_path, option, no_work):
    for path in bad_files(tmp_path):
        one_line(run("study", "gate", "--quick", "--out", tmp_path / "runs", option, path), path)


def test_study_notices_a_bad_folder_before_it_trains(tmp_path, no_work):
    (tmp_path / "file").write_text("")
    one_line(run("study", "gate", "--quick", "--out", tmp_path / "file"), tmp_path / "file")
    if os.path.isdir(NOWHERE):
        result = run("study", "gate", "--quick", "--out", NOWHERE)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"gta-ref: {NOWHERE}/")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "null", "{}", "[1]", "[" * 10_000 + "]" * 10_000, '{"a": 1, "a": 2}'])
def test_study_names_a_damaged_result_before_it_trains(tmp_path, content, no_work):
    job = next(iter(studies.quick(studies.load("gate")).jobs()))
    path = tmp_path / f"{runner.digest(job)}.json"
    path.write_text(content)
    one_line(run("study", "gate", "--quick", "--out", tmp_path), path)


def test_the_index_of_a_checkpoint_is_nested_or_has_a_key_twice(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for content in ("[" * 10_000 + "]" * 10_000, '{"weight_map": {"a": "b", "a": "c"}}'):
        index.write_text(content)
        with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: not JSON with a weight_map"):
            read_state(tmp_path)


def test_leftovers_in_a_folder_are_not_shards(tmp_path):
    from gta_ref.files import write_tensors

    write_tensors(tmp_path / "a.safetensors", {"x": np.zeros(2)})
    (tmp_path / ".a-x1y2z3.safetensors").write_bytes(b"half")
    assert list(read_state(tmp_path)) == ["x"]


def test_arrays_that_numpy_lacks(monkeypatch):
    """A stand-in for PyTorch's FP8 tensors, for which its method numpy() raises TypeError."""

    def numpy():
        raise TypeError("Got unsupported ScalarType Float8_e4m3fn")

    class Tensor(SimpleNamespace):
        def detach(self):
            return self

        cpu = resolve_conj = resolve_neg = detach

    Tensor.__module__ = "torch"
    fake = ModuleType("torch")
    fake.bfloat16, fake.Tensor = "torch.bfloat16", Tensor
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(
        ValueError, match=r"z is a tensor of torch\.float8_e4m3fn, torch\.strided, on cpu, which NumPy cannot"
    ):
        exchange.to_numpy(Tensor(dtype="torch.float8_e4m3fn", layout="torch.strided", device="cpu", numpy=numpy), "z")
    with pytest.raises(ValueError, match="arrays='xla' must be one of"):
        exchange.from_numpy({"x": np.zeros(2)}, "xla")


def test_a_whole_result_is_read_again(tmp_path, no_work, monkeypatch):
    """The check before the work does not refuse what an earlier call has written."""
    study = studies.quick(studies.load("gate"))
    for job in study.jobs():
        (tmp_path / f"{runner.digest(job)}.json").write_text(json.dumps({"measured": {"x": 1}}))

    class Pool:
        def __init__(self, *arguments):
            pass

        def shutdown(self, **options):
            pass

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Pool)
    assert len(runner.run(study, tmp_path, 1, print)) == len(list(study.jobs()))
