"""Wrong settings of the environment and absurd arguments: one line on stderr, or output that can be read; no traceback."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
