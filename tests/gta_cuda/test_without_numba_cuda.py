"""Without numba-cuda, as on macOS: Numba's own simulator runs the kernels, and a GPU's part says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import importlib.util, runpy, sys
sys.meta_path = [one for one in sys.meta_path if type(one).__name__ != "NumbaCudaFinder"]  # it redirects numba.cuda
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)
sys.modules["numba_cuda"] = None  # importing it raises ModuleNotFoundError
"""


def without_numba_cuda(code, simulated, missing=("numba_cuda",)):
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": simulated, "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "ignore", "-c", f"missing = {missing}{WITHOUT}{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, encoding="utf-8")


def module(name, *arguments):
    """Code that does what ``python -m name arguments`` does."""
    return f"sys.argv[1:] = {arguments}; runpy.run_module({name!r}, run_name='__main__')"


def test_the_puzzles():
    """The race of p2 shows that the threads are watched; p5 calls functions of another module in all threads at once."""
    code = """
import numba.cuda
from gta_cuda.puzzles.__main__ import PUZZLES
assert numba.cuda.implementation == "Built-in"
print([one.check(one.solution_text) for one in PUZZLES.values()], [len(one.hints) > 1 for one in PUZZLES.values()])
print(PUZZLES["p2"].check(PUZZLES["p2"].starter_text))
"""
    done = without_numba_cuda(code, "1")
    assert done.returncode == 0, done.stderr
    first, second, _ = done.stdout.splitlines()
    assert first == f"{[None] * 7} {[True] * 7}"
    assert second.startswith("a race: ")


def test_the_command_of_the_puzzles_chooses_the_simulator(tmp_path):
    for action, file, said in (("starter", "p1.py", ""), ("check", "p1.py", "p1: not yet. 32 of 32 numbers are wrong")):
        done = without_numba_cuda(module("gta_cuda.puzzles", action, "p1", str(tmp_path / file)), "0")
        assert (done.returncode, done.stderr) == (int(action == "check"), "")
        assert done.stdout.startswith(said)


def test_steps_of_the_ladders():
    """Those with memory of their own kinds: asynchronous copies, products of warpgroups, several blocks per result."""
    names = "async", "forward_wgmma", "decode_wide", "backward"
    done = without_numba_cuda(module("gta_cuda.ladder", *names), "1")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in lines] == list(names)
    for name, dtype, _, _, error, _ in lines:
        assert float(error) < (4e-3 if dtype == "bfloat16" else 1e-6), name


def test_notebook_6():
    pytest.importorskip("IPython", reason="the notebooks need IPython: pip install --editable '.[notebooks]'")
    notebook = ROOT / "notebooks" / "06_numba_cuda_kernels.py"
    done = without_numba_cuda(f"runpy.run_path({str(notebook)!r})", "0")  # it chooses the simulator itself
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("counted in the simulator: the same") == 5


@pytest.mark.parametrize("name", ["intrinsics", "kernels", "launch", "ladder", "catalog"])
def test_compiling_the_kernels_says_what_to_install(name):
    done = without_numba_cuda(f"import gta_cuda.{name}", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: numba-cuda is not installed (pip install 'gta-ref[cuda13]', or [cuda12] for older "
        "drivers); NUMBA_ENABLE_CUDASIM=1 simulates a GPU without it"
    )


@pytest.mark.parametrize(
    "name, simulated, missing, message",
    [
        ("gta_cuda.ladder", "0", ("numba_cuda",), "numba-cuda is not installed (pip install"),
        ("gta_cuda.ladder", "1", ("numba_cuda", "numba"), "Numba's CUDA simulator is not installed here"),
        ("gta_cuda.puzzles", "0", ("numba_cuda", "numba"), "Numba's CUDA simulator is not installed here"),
    ],
)
def test_a_command_that_cannot_run_says_so_in_one_line(name, simulated, missing, message):
    done = without_numba_cuda(module(name), simulated, missing)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
