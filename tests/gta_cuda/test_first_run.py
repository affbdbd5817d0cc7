"""`cuda/first_run.sh` and its programs, as far as they go without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gta_cuda.first_run import imports, numpy_names, results, summary, timing
from gta_ref.bench import gpu

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cuda" / "first_run.sh"


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    monkeypatch.setenv(results.VARIABLE, str(path))
    return path


def bash(*arguments, **environment):
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_a_result_is_in_the_file_at_once_and_a_failure_is_one(file):
    with results.attempt("1", "good", n=np.float32(2)) as found:
        found["ok"] = np.True_
    with results.attempt("1", "bad") as found:
        found["before"] = float("nan")
        raise ZeroDivisionError("division\nby zero")
    first, second = results.read(file)
    assert (first["ok"], first["n"]) == (True, 2.0)
    assert (second["ok"], second["before"], second["error"]) == (False, "nan", "ZeroDivisionError: division")


def test_a_line_that_was_cut_off_is_left_out(file):
    results.record("3", "whole", True)
    with file.open("a") as cut:
        cut.write('{"step": "3", "name": "ha')
    assert [one["name"] for one in results.read(file)] == ["whole"]


@pytest.mark.parametrize("failures, speeds", [(0, 0), (1, 3), (200, 0), (0, 200), (200, 200)])
def test_the_summary_has_at_most_sixty_lines(failures, speeds):
    found = [{"step": "3", "name": f"case {i}", "ok": False, "error": f"E {i}"} for i in range(failures)]
    figures = {
        "what": "kernel",
        "kind": "decode",
        "contestant": "cuda",
        "seconds": 1e-3,
        "rate": 2e12,
        "of_ceiling": 0.5,
    }
    found += [{"step": "4", "name": "n", "ok": None, "case": f"decode {i}", **figures} for i in range(speeds)]
    lines = summary.lines(found)
    assert len(lines) <= summary.MOST_LINES
    text = "\n".join(lines)
    assert f"0 right, {failures} wrong" in text
    assert ("case 0: E 0" in text) == (failures > 0)
    assert ("2.000 TB/s, 50% of the ceiling" in text) == (speeds > 0)
    if failures == 200:
        assert "more in the file" in text


def test_failures_for_one_reason_are_one_line():
    found = [{"step": "3", "name": f"case {i}", "ok": False, "error": "no GPU"} for i in range(5)]
    assert summary.lines(found)[-1] == "  step 3, case 0 and 4 more: no GPU"


def test_findings_of_the_benchmark_become_results(file, monkeypatch):
    """A miss or a failure of the engine is a fault; what a peer cannot do is none."""
    findings = [
        {"what": "machine", "device": "GPU"},
        {"what": "check", "name": "forward", "contestant": "cuda", "wrong": False},
        {"what": "check", "name": "decode", "contestant": "cuda", "wrong": True},
        {"what": "kernel", "name": "forward", "contestant": "cuda", "why_not": "CUDARuntimeError: capture"},
        {"what": "check", "name": "forward", "contestant": "torch, flash", "why_not": "RuntimeError: no kernel"},
    ]
    monkeypatch.setattr(gpu, "run", lambda *, record, **options: [record(one) for one in findings])
    monkeypatch.setattr(sys, "argv", ["timing"])
    timing.main()
    found = results.read(file)
    assert [one["ok"] for one in found] == [None, True, False, False, None, True]
    assert found[1]["name"] == "check, forward, cuda"
    assert "CUDARuntimeError: capture" in "\n".join(summary.lines(found))


def test_what_is_missing_in_a_pack_is_found(tmp_path):
    (tmp_path / "gta_cuda").mkdir()
    code = "import requests\nfrom gta_cuda import gone\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich\n"
    (tmp_path / "gta_cuda" / "one.py").write_text(code)
    found = set(imports.imports_of(tmp_path / "gta_cuda" / "one.py", tmp_path))
    assert found == {"requests", "gta_cuda", "typing"}
    assert imports.file_of("gta_cuda.gone", tmp_path) is None
    (tmp_path / "gta_cuda" / "gone.py").write_text("")
    assert "gta_cuda.gone" in imports.imports_of(tmp_path / "gta_cuda" / "one.py", tmp_path)


def test_a_pack_without_its_files_is_refused(tmp_path):
    (tmp_path / "gta_cuda" / "first_run").mkdir(parents=True)
    environment = {"PYTHONPATH": str(ROOT), results.VARIABLE: str(tmp_path / "r")}
    command = [sys.executable, "-m", "gta_cuda.first_run.imports", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gta_cuda.first_run.smoke is not in the pack" in results.read(tmp_path / "r")[0]["missing"]


def test_everything_runs_to_the_end_although_everything_fails(tmp_path):
    """A Python in which no program works: each step is recorded as failed, and the summary still comes."""
    pack, out = tmp_path / "pack", tmp_path / "out"
    (pack / "gta_cuda").mkdir(parents=True)
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\ncase "$*" in *summary*) PYTHONPATH={ROOT} exec {sys.executable} "$@";; esac\nexit 3\n')
    stub.chmod(0o755)
    done = bash("--pack", pack, "--out", out, PYTHON=str(stub))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    failed = {one["step"] for one in lines if one["ok"] is False and one["status"] == 3}
    assert failed >= {"0", "1", "2", "3", "4", "5", "8"}
    assert "FAILED" in done.stdout
    assert len(done.stdout.splitlines()) < 100
    assert len(list(out.iterdir())) <= 8


def test_numba_is_told_where_cuda_is(tmp_path):
    """CUDA_HOME and CUDA_PATH are the folder above that of nvcc, unless they are set."""
    pack, out, home = tmp_path / "pack", tmp_path / "out", tmp_path / "cuda-13"
    (pack / "gta_cuda").mkdir(parents=True)
    (home / "bin").mkdir(parents=True)
    nvcc, stub = home / "bin" / "nvcc", tmp_path / "python"
    nvcc.write_text("#!/bin/sh\n")
    stub.write_text(f'#!/bin/sh\necho "$CUDA_HOME $CUDA_PATH $GTA_CUDA_PACK" >> {tmp_path}/seen\n')
    for program in (nvcc, stub):
        program.chmod(0o755)
    environment = {"PYTHON": str(stub), "PATH": f"{nvcc.parent}:{os.environ['PATH']}", "CUDA_PATH": "/elsewhere"}
    environment["CUDA_HOME"] = ""
    bash("--pack", pack, "--out", out, **environment)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert f"{home} /elsewhere {pack}/cubins" in seen
    assert f"{home} /elsewhere " in seen  # step 2 runs without the pack


def test_a_step_that_hangs_is_cut_off_and_the_rest_is_left_out(tmp_path):
    pack, out = tmp_path / "pack", tmp_path / "out"
    (pack / "gta_cuda").mkdir(parents=True)
    stub = tmp_path / "python"
    stub.write_text(
        f'#!/bin/sh\ncase "$*" in *summary*) PYTHONPATH={ROOT} exec {sys.executable} "$@";; -c*) exit;; esac\nsleep 60\n'
    )
    stub.chmod(0o755)
    bash("--pack", pack, "--out", out, "--seconds", 7, PYTHON=f"{stub}")
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert lines[0]["cut_off_after"] >= 5
    assert {one["name"] for one in lines if "left_out" in one} >= {"smoke, carried", "correctness", "timing"}


def test_numpy_gets_the_names_that_it_has_removed(monkeypatch):
    """numba-cuda 0.30.4 asks for np.row_stack, which NumPy 2.5 no longer has."""
    monkeypatch.delattr(np, "row_stack", raising=False)
    importlib.reload(numpy_names)
    np.testing.assert_array_equal(np.row_stack([[1], [2]]), [[1], [2]])  # noqa: NPY201


@pytest.mark.parametrize(
    "arguments, message", [(["--fast"], "unknown option --fast"), (["--pack", "/nowhere"], "/nowhere is no pack")]
)
def test_wrong_usage(arguments, message, tmp_path):
    done = bash(*arguments, PYTHON=sys.executable)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: pip install --group cuda"
)
def test_dry_run():
    done = bash("--dry-run", PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dry run: ok" in done.stdout
    assert "4 right, 0 wrong" in done.stdout
