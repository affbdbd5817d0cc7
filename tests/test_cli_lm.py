"""gta-ref train and gta-ref study as a user types them."""

import functools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.lm import model, train
from gta_ref.lm import text as texts
from gta_ref.mechanisms import gta

SMALL = ["--batch", "2", "--length", "32", "--hidden-size", "32", "--n-layers", "1"]


def stop_after_three(run):
    if run.state.step == 3:
        raise KeyboardInterrupt


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"the cat sat on the mat, and the dog sat on the log. " * 60)
    return path


def test_train_and_resume(tmp_path, text):
    out, whole = tmp_path / "run.safetensors", tmp_path / "whole.safetensors"
    result = run("train", "--text", text, "--steps", 6, "--validate-every", 2, "--out", whole, *SMALL)
    assert result.exit_code == 0, result.output
    assert "text.txt (3,120 bytes" in result.output
    assert "step 6: held out" in result.output
    part = train.load(whole)
    source = texts.from_file(text)
    begun = train.begin(part.config, part.settings, source)
    with pytest.raises(KeyboardInterrupt):
        train.advance(begun, source, on_step=stop_after_three)
    train.save(out, begun)
    result = run("train", "--resume", out, "--text", text, "--json", tmp_path / "run.json")
    assert result.exit_code == 0, result.output
    assert "continues after step 3" in result.output
    figures = json.loads((tmp_path / "run.json").read_text())
    assert figures["losses"] == part.losses
    assert train.load(out).losses == part.losses
    done = run("train", "--resume", out, "--text", text)
    assert done.exit_code == 0
    assert "this run has done all its 6 steps" in " ".join(done.output.split())


def test_a_run_whose_layers_differ_is_resumed(tmp_path, text):
    """Such a run is begun in Python; the command goes on with it."""
    layers = [gta.Config(16, 4, 4, n_q, 1, 1, d_l) for n_q, d_l in ((4, 8), (2, 3))]
    source, out = texts.from_file(text), tmp_path / "run.safetensors"
    settings = train.Settings(steps=2, batch=2, length=32, warmup=1)
    train.save(out, train.begin(model.Config(texts.VOCABULARY, 2, 24, layers), settings, source))
    result = run("train", "--resume", out, "--text", text, "--n-layers", 2)
    assert result.exit_code == 2
    assert "run.safetensors holds a model whose layers differ in size; expected no option about" in result.stderr
    result = run("train", "--resume", out, "--text", text)
    assert result.exit_code == 0, result.output
    assert f"{sum(p.size for p in train.load(out).state.params.values()):,} parameters" in result.output
    assert "2 layers of width 16; 9.5 cached elements per token and layer" in " ".join(result.output.split())
    assert train.load(out).state.step == 2


def test_interrupt_saves_and_says_how_to_go_on(tmp_path, text):
    out = tmp_path / "run.safetensors"
    command = [
        sys.executable,
        "-m",
        "gta_ref.cli",
        "train",
        "--text",
        str(text),
        "--steps",
        "100000",
        "--out",
        str(out),
    ]
    command += [*SMALL, "--validate-every", "1"]  # the file's existence shows that it trains
    # a job in a shell's background ignores SIGINT, and so would its children
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=listen)
    try:
        for _ in range(600):
            if out.is_file() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, printed
    found = train.load(out)
    assert f"stopped after step {found.state.step}; continue:" in printed
    assert len(found.losses) == found.state.step > 0
    assert np.isfinite(found.losses).all()


def test_a_run_that_was_stopped_in_its_last_validation(tmp_path, text):
    out = tmp_path / "run.safetensors"
    assert run("train", "--text", text, "--steps", 2, "--out", out, *SMALL).exit_code == 0
    done = train.load(out)
    held_out = done.validation.pop(2)
    train.save(out, done)
    result = run("train", "--resume", out, "--text", text)
    assert result.exit_code == 0, result.output
    assert f"step 2: held out {held_out:.3f}" in result.output
    assert train.load(out).validation == {2: held_out}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mechanism", "rnn"], "mechanism='rnn' must be one of"),
        (["--gate", "tanh"], "gate='tanh' must be one of"),
        (["--steps", "0"], "steps=0 must be a whole number of at least 1"),
        (["--length", "4000"], "bytes to draw from; expected more than length=4000"),
        (["--engine", "x"], "engine='x' must be one of"),
        (["--resume", "none.safetensors"], "none.safetensors: no such file"),
        (["--learning-rate", "1e9", "--steps", "30"], "; nothing was written; try a smaller --learning-rate"),
    ],
)
def test_train_refuses(arguments, message, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", "--text", text, *SMALL, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_resume_refuses_another_run(tmp_path, text):
    out = tmp_path / "run.safetensors"
    assert run("train", "--text", text, "--steps", 1, "--out", out, *SMALL).exit_code == 0
    before = out.read_bytes()
    for arguments, message in (
        (["--seed", 1], "holds a run with seed=0; asked for 1"),
        (["--mechanism", "mha", "--hidden-size", 32, "--n-layers", 1], "holds another model"),
        (["--text", out], "expected text.txt"),
    ):
        result = run("train", "--resume", out, "--text", text, *arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr
    assert out.read_bytes() == before


def test_study(tmp_path):
    arguments = ["study", "retrieval", "--quick", "--out", tmp_path / "runs"]
    result = run(*arguments, "--json", tmp_path / "s.json", "--plot", tmp_path / "s.png")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "s.json").read_text())
    assert list(figures["arms"]) == ["mha", "mqa", "gqa", "mla", "gta", "gta, 4 maps", "gva, 2 maps"]
    assert all(len(arm["loss"]) == 2 for arm in figures["arms"].values())
    assert set(figures["arms"]["gta"]["measured"]) == {"found", "near", "far"}
    assert (tmp_path / "s.png").stat().st_size > 20_000
    assert "95 % interval" in result.output
    again = run(*arguments)
    assert again.exit_code == 0
    assert run("study", "nothing").exit_code == 2
