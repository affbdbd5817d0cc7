"""The mutation command: which mutants it makes, and that it tells a killed mutant from a survivor and an equivalent one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation import run
from tests.mutation.mutator import mutants_of
from tests.mutation.parts import PARTS, files, left_out

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SOURCE = b'''"""A docstring with 1 + 1."""

import numpy as np

NAME: str = "3"


def f(a: int, out, b=(1 + 2)) -> int:
    if a < 0:
        raise ValueError(f"a={a + 1}")
    check_size(a - 1)
    out[:, 1] += np.minimum(
        a,  # the first
        -b,
    )
    cuda.syncthreads()
    return np.where(a <= 2, np.exp(a * b), 0.5) if not a else a // b
'''


def changes():
    return [(m.line, m.kind, m.after) for m in mutants_of(SOURCE, "f.py")]


@pytest.mark.parametrize(
    "line, kind, after",
    [
        (12, "removed", "pass"),
        (12, "bound", "out[:, 2] += np.minimum("),
        (12, "bound", "out[:, 0] += np.minimum("),
        (12, "extreme", "out[:, 1] += (np.maximum(a, -b)"),
        (14, "negation", "b,"),
        (16, "barrier", "pass"),
        (17, "comparison", "return np.where((a < 2), np.exp(a * b), 0.5) if not a else a // b"),
        (17, "arithmetic", "return np.where(a <= 2, np.exp((a + b)), 0.5) if not a else a // b"),
        (17, "function", "return np.where(a <= 2, (np.exp2(a * b)), 0.5) if not a else a // b"),
        (17, "order", "return (np.where(a <= 2, 0.5, np.exp(a * b))) if not a else a // b"),
        (17, "boolean", "return np.where(a <= 2, np.exp(a * b), 0.5) if a else a // b"),
        (17, "bound", "return np.where(a <= 2, np.exp(a * b), 0.5) if not a else (a // b + 1)"),
        (17, "constant", "return np.where(a <= 2, np.exp(a * b), 1.0) if not a else a // b"),
    ],
)
def test_a_mutant_of_each_kind(line, kind, after):
    assert (line, kind, after) in changes()


def test_what_is_not_mutated():
    """Docstrings, annotations, defaults of arguments, and whatever only decides whether an error is raised."""
    assert {line for line, _, _ in changes()} == {12, 14, 16, 17}


def test_every_mutant_is_python_with_the_same_lines():
    for part, path in files(ROOT):
        source = (ROOT / path).read_bytes()
        mutants = mutants_of(source, path)
        assert len({m.key for m in mutants}) == len(mutants)
        for m in run.chosen(mutants, seed=1, wanted=3):
            mutated = m.apply(source)
            compile(mutated, path, "exec")
            assert mutated.count(b"\n") == source.count(b"\n")
            assert mutated != source
        assert part in PARTS


def test_a_larger_sample_contains_a_smaller_one():
    planned = {n: {m.key for _, m in run.plan(ROOT, ["gta_ref/ops/softmax"], n, seed=3)[0]} for n in (5, 9, 0)}
    assert planned[5] < planned[9] < planned[0]
    assert planned[5] != {m.key for _, m in run.plan(ROOT, ["gta_ref/ops/softmax"], 5, seed=4)[0]}


def test_every_file_of_the_engines_has_its_killers():
    rooms = ("gta_ref/core/", "gta_ref/core/cpu/", "gta_ref/ops/", "gta_ref/mechanisms/")
    mutated = {path for _, path in files(ROOT)}
    for room in rooms:
        for path in (ROOT / room).glob("*.py"):
            assert path.name == "__init__.py" or f"{room}{path.name}" in mutated, path
    for part in PARTS.values():
        for tests in part.tests.values():
            assert all((ROOT / t.partition("::")[0]).exists() for t in tests if t.startswith("tests/"))


def test_tile_sizes_and_checks_are_left_out():
    assert left_out("gta_ref/core/cpu/plan.py", "ROWS") == "the sizes of tiles and chunks"
    assert left_out("gta_ref/ops/arrays.py", "check_layer") == "checks arguments"
    assert left_out("gta_ref/core/reference.py", "forward") is None


@pytest.mark.parametrize("entry", run.known(), ids=lambda e: f"{e['file']}, {e.get('after', e.get('before'))}")
def test_every_known_mutant_exists_and_has_a_reason(entry):
    path = ROOT / entry["file"]
    assert entry["why"].endswith(".")
    assert entry["verdict"] in ("equivalent", "survives")
    assert any(run.entry_of(m, [entry]) for m in mutants_of(path.read_bytes(), entry["file"]))


TOY = '''
def first(x, n):
    """The first n numbers."""
    return [x[i] for i in range(0, n)]


def larger(a, b):
    return a if a > b else b
'''
WEAK = """
from gta_ref.toy import first, larger

def test_first():
    assert first([5, 6, 7], 2) == [5, 6]

def test_larger():
    assert larger(1, 1) == 1
"""
PARTS_OF_TOY = """
from tests.mutation import real_parts
from tests.mutation.real_parts import KIT, SLOW, Part, files, left_out
PARTS = {"toy": Part("", (), {"gta_ref/toy.py": ("tests/test_toy.py",)}, 60, {})}
real_parts.PARTS = PARTS
"""
SAME = """
[[mutant]]
file = "gta_ref/toy.py"
function = "larger"
after = "return a if (a >= b) else b"
verdict = "equivalent"
why = "Equal numbers."
"""


def test_the_command(tmp_path):
    """A weak test lets one mutant live: status 1. With a better test, and --retry, all are killed: status 0."""
    (tmp_path / "gta_ref").mkdir()
    (tmp_path / "gta_ref" / "__init__.py").touch()
    (tmp_path / "gta_ref" / "toy.py").write_text(TOY)
    folder = tmp_path / "tests" / "mutation"
    folder.mkdir(parents=True)
    for name in ("run", "worker", "mutator"):
        shutil.copy(HERE / f"{name}.py", folder)
    shutil.copy(HERE / "parts.py", folder / "real_parts.py")
    (folder / "parts.py").write_text(PARTS_OF_TOY)
    (folder / "equivalent.toml").write_text(SAME)
    test = tmp_path / "tests" / "test_toy.py"
    test.write_text(WEAK)

    def command(*arguments):
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tmp_path)}
        words = [sys.executable, "-m", "tests.mutation.run", "--sample", "0", *arguments]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    status, report, log = command()
    assert status == 1, log
    assert "| toy | 3 | 1 | 1 | 1 | 0 | 50.0 % | 0 |" in report
    assert (
        "`gta_ref/toy.py`, `larger`, line 8: `return a if a > b else b` became `return (b if a > b else a)`" in report
    )
    assert (tmp_path / "gta_ref" / "toy.py").read_text() == TOY
    assert os.listdir(tmp_path / "build" / "mutation") == ["results.jsonl"]
    test.write_text(WEAK.replace("larger(1, 1) == 1", "larger(1, 2) == 2"))
    assert command()[0] == 1  # nothing is judged twice
    status, report, log = command("--retry")
    assert status == 0, log
    assert "| toy | 3 | 2 | 0 | 1 | 0 | 100.0 % | 0 |" in report
