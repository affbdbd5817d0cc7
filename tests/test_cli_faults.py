"""Wrong settings of the environment and absurd arguments: one line on stderr, or output that can be read; no traceback."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.lab import runner
from gta_ref.lm import model, small

ROOT = Path(__file__).parents[1]


def start(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gta_ref", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--n-heads", 0], "n_heads=0 must be a whole number of at least 1"),
        (["train", "--n-heads", -4], "n_heads=-4 must be a whole number of at least 1"),
        (["train", "--hidden-size", 0], "hidden_size=0 must be a whole number of at least 1"),
        (["train", "--n-layers", 0], "n_layers=0 must be a whole number of at least 1"),
        (["train", "--n-layers", 10**9], "the model has 197,888,000,032,896 parameters"),
        (["train", "--n-layers", 10**400], "must be a whole number of at most 9223372036854775807"),
        (["train", "--hidden-size", 8 * 10**12], "choose a smaller --n-layers or --hidden-size"),
        (["verify", "--impl", "..x:y"], "impl='..x:y' must be of the form package.module:name"),
        (["verify", "--impl", ".:y"], "impl='.:y' must be of the form package.module:name"),
        (["verify", "--impl", "no/such file:y"], "no module no/such file"),
    ],
    ids=lambda x: " ".join(map(str, x))[:40] if isinstance(x, list) else "",
)
def test_absurd_arguments(arguments, message, tmp_path):
    out = ["--out", tmp_path / "run.safetensors"] if arguments[0] == "train" else []
    done = start(*arguments, *out)
    stderr = done.stderr.decode()
    assert done.returncode == 2
    assert message in stderr
    assert stderr.startswith("gta-ref: ")
    assert stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_parameters_are_counted_without_a_list_of_all_shapes():
    for name in small.NAMES:
        config = small.config(name, n_layers=3)
        shapes = model.param_shapes(config).values()
        assert small.n_parameters(config) == sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize("number", ["0", "-3"])
def test_no_threads(number):
    """Numba refuses such a number in a sentence that does not name the variable."""
    done = start("doctor", NUMBA_NUM_THREADS=number)
    assert done.returncode == 2
    assert done.stderr.decode() == f"gta-ref: NUMBA_NUM_THREADS={number} must be a whole number of at least 1\n"


@pytest.mark.parametrize("columns", ["0", "00", ""])
def test_a_terminal_without_columns(columns):
    done = start("costs", COLUMNS=columns)
    assert done.returncode == 0, done.stderr
    assert b"cache, elements per token and layer" in done.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
    ],
    ids=["PYTHONIOENCODING", "locale C"],
)
def test_an_ascii_terminal(environment):
    done = start("costs", **environment)
    assert done.returncode == 0, done.stderr
    assert rb"gta-1b \xf7 gqa-1b" in done.stdout  # the character is ÷
    assert done.stdout.isascii()


def test_a_terminal_that_can_show_it():
    done = start("costs", PYTHONIOENCODING="utf-8")
    assert "gta-1b ÷ gqa-1b" in done.stdout.decode()


ODD = "[red]a[/]\x1b[2J"  # rich takes the first part for markup, and a terminal the last for a command


def test_names_of_files_are_shown_as_they_are(tmp_path):
    """Characters that a terminal would obey are shown as escapes, and brackets are only brackets."""
    text = tmp_path / ODD.replace("/", "") / "[b].txt"
    text.parent.mkdir()
    text.write_bytes(b"the cat sat on the mat. " * 200)
    odd = text.parent / f"{ODD.replace('/', '')}.txt"
    odd.write_bytes(text.read_bytes())
    size = ["--batch", 1, "--length", 16, "--hidden-size", 32, "--n-layers", 1, "--steps", 1]
    done = start("train", "--text", odd, "--out", tmp_path / "[red]r.safetensors", *size, COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert rb"text: [red]a[]\x1b[2J.txt (4,800 bytes" in done.stdout
    assert b"[red]r.safetensors" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    done = start("train", "--text", odd, "--resume", tmp_path / "[red]r.safetensors")
    assert done.returncode == 0, done.stderr


def test_a_folder_whose_name_looks_like_markup(tmp_path, monkeypatch):
    def run(*arguments):
        raise ValueError("nothing is run here")

    monkeypatch.setattr(runner, "run", run)
    result = CliRunner().invoke(cli.app, ["study", "gate", "--quick", "--out", str(tmp_path / "x[" / "]")])
    assert (result.exit_code, result.stderr) == (2, "gta-ref: nothing is run here\n")
    assert "x[/]" in result.stdout.replace("\n", "")


@pytest.mark.parametrize(
    "content, status, message",
    [
        ('{"name": "[/x]", "mechanism": "gqa", "n_k": 5}', 0, ""),
        ('{"name": "\\u001b[2J", "mechanism": "gqa", "n_k": 5}', 2, "must consist of characters that can be printed"),
        ("[" * 10_000 + "]" * 10_000, 2, "not a JSON file (it is nested too deeply)"),
        ('{"mechanism": "gqa", "n_k": 5, "n_k": 4}', 2, "not a JSON file (the key 'n_k' is there twice)"),
        ('{"mechanism": "gqa", "n_k": 5, "\\u001b[2J": 4}', 2, "unknown"),
    ],
    ids=["markup", "escape", "nested", "twice", "key"],
)
def test_models_with_odd_names(tmp_path, content, status, message):
    (tmp_path / "m.json").write_text(content)
    done = start("costs", "--models", tmp_path / "m.json")
    assert done.returncode == status, done.stderr
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == (status == 2)
    assert b"\x1b" not in done.stdout + done.stderr


def test_numba_does_not_compile(tmp_path):
    """engine="auto" is then the reference, and engine="numba" is refused in one line."""
    text = tmp_path / "text.txt"
    text.write_bytes(b"the cat sat on the mat. " * 200)
    size = ["--batch", 2, "--length", 64, "--hidden-size", 64, "--n-layers", 1, "--steps", 1]
    common = ["train", "--text", text, "--out", tmp_path / "run.safetensors", *size]
    done = start(*common, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    done = start(*common, "--engine", "numba", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 2
    assert done.stderr.decode().startswith("gta-ref: engine 'numba' cannot run here: NUMBA_DISABLE_JIT is set")
    assert done.stderr.count(b"\n") == 1
    done = start("doctor", NUMBA_DISABLE_JIT="1")
    assert b"no: NUMBA_DISABLE_JIT is set" in done.stdout
