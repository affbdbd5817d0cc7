"""`gta-ref bench gpu` on the fake GPU of fake_bench.py: its cases, a whole run, and the command.

The check of the results, the clock and PyTorch are tested in test_gpu_bench_stages.py, the kernels in test_gpu.py.
"""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from gta_ref.bench import gpu, gpu_torch
from gta_ref.commands import bench_gpu
from tests.gta_cuda import fake_bench
from tests.gta_cuda.fake_bench import TINY, findings, of, spoil

app = typer.Typer()
app.command()(bench_gpu.gpu)


@pytest.fixture
def device(monkeypatch):
    return fake_bench.install(monkeypatch)


def test_work_is_counted_by_hand():
    """N = 2: the first query sees one key, the second two. A multiply–add is two operations."""
    pairs = 3
    assert gpu.Case("forward", "float32", 1, 2).operations == 2 * 5 * pairs * (64 + 128)
    # the backward adds S, dP, dV, dQ and dK: 64 + 128 + 128 + 64 + 64
    assert gpu.Case("forward+backward", "float32", 1, 2).operations == 2 * 5 * pairs * (192 + 448)
    assert gpu.Case("decode", "bfloat16", 3, 10).operations == 2 * 3 * 5 * 10 * 192
    assert gpu.Case("decode", "bfloat16", 1, 131072).cache_bytes == 131072 * 384  # 50 MB
    assert gpu.Case("decode", "float32", 1, 131072).cache_bytes == 131072 * 768


def test_summary_is_a_median_against_the_right_ceiling():
    ceilings = {"copy": {"rate": 1000.0}, "product": {"rate": 1e6}}
    decode = gpu.Case("decode", "bfloat16", 1, 10)
    found = gpu.summary(decode, [4.0, 100.0, 2.0], ceilings)
    assert found == {"seconds": 4.0, "rate": 960.0, "of_ceiling": 0.96}
    forward = gpu.Case("forward", "bfloat16", 1, 2)
    assert gpu.summary(forward, [1.0], ceilings)["of_ceiling"] == pytest.approx(5760 / 1e6)
    assert "of_ceiling" not in gpu.summary(gpu.Case("forward", "float32", 1, 2), [1.0], ceilings)
    assert "of_ceiling" not in gpu.summary(forward, [1.0], {"product": {"why_not": "no cuBLAS"}})


def test_cases():
    found = gpu.cases()
    assert len({case.name for case in found}) == len(found)
    assert {(c.batch, c.length) for c in found if c.kind == "decode"} == {(1, 131072), (32, 8192)}
    assert {c.length for c in found if c.kind == "forward"} == {1024, 2048, 4096, 8192, 16384}
    assert len(gpu.cases(quick=True)) < len(found)


def test_the_most_informative_cases_come_first():
    """A run may end early, so that one case of each kind and dtype comes before the second of any."""
    found = [(case.kind, case.dtype) for case in gpu.cases()]
    several = len(set(found))
    assert several == 6
    assert len(set(found[:several])) == several
    assert [case.length for case in gpu.cases()[:several]] == [4096, 8192, 4096, 4096, 4096, 8192]


def test_flex_attention_comes_last_because_it_is_compiled():
    found = gpu.plan(against_torch=True, quick=False)
    flex = [i for i, (_, names) in enumerate(found) if gpu_torch.FLEX in names]
    assert flex == [len(found) - 3, len(found) - 2, len(found) - 1]  # the three kinds
    assert [case for case, _ in found[: flex[0]]] == gpu.cases()
    assert all(names[0] == "cuda" for _, names in found[: flex[0]])
    assert all(names == ["cuda"] for _, names in gpu.plan(against_torch=False, quick=False))


def test_every_finding_is_recorded_as_it_comes(device, monkeypatch):
    progress = []
    recorded = []
    monkeypatch.setattr(gpu, "measure_ceilings", lambda: iter([("copy", {"why_not": "no cuBLAS"})]))
    gpu.run(False, True, lambda name: progress.append(len(recorded)), record=recorded.append)
    whats = ["machine", "ceiling", *["check", "host", "kernel"] * len(TINY)]
    assert [one["what"] for one in recorded] == whats
    assert progress == [1, 2, 5, 8]  # before a case begins, everything before it has been recorded
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded[2].keys() >= {
        "name",
        "kind",
        "dtype",
        "batch",
        "length",
        "contestant",
        "errors",
        "allowed",
        "wrong",
    }


def test_a_failure_of_the_engine_ends_nothing(device, monkeypatch):
    def fail(case, arrays):
        raise RuntimeError("an illegal memory access\nand more")

    monkeypatch.setattr(gpu, "compute", fail)
    recorded, figures = findings()
    assert [one["what"] for one in recorded] == ["machine", "ceiling", "ceiling"] + ["check"] * len(TINY)
    assert of(recorded, "decode")["why_not"] == "RuntimeError: an illegal memory access"
    assert len(list(gpu.faults(figures))) == len(TINY)


def test_inputs_that_do_not_fit_end_nothing(device, monkeypatch):
    right = gpu.inputs

    def inputs(case):
        if case.kind == "decode":
            raise MemoryError
        return right(case)

    monkeypatch.setattr(gpu, "inputs", inputs)
    recorded, _ = findings()
    assert of(recorded, "decode")["why_not"] == "MemoryError"
    assert of(recorded, "forward+backward", "kernel")["seconds"] > 0


def test_a_time_budget_leaves_cases_out(device, monkeypatch):
    clock = iter(range(100))  # it is read once at the start, and then once before each case
    monkeypatch.setattr(gpu, "monotonic", lambda: next(clock))
    recorded, figures = findings(seconds=1.5)
    assert [one["name"] for one in figures["cases"]] == [TINY[0].name]
    assert figures["left_out"] == [case.name for case in TINY[1:]]
    assert [(one["what"], one["name"]) for one in recorded[-2:]] == [("left out", case.name) for case in TINY[1:]]
    assert not findings(seconds=None)[1]["left_out"]


def test_it_says_why_it_cannot_run(monkeypatch):
    monkeypatch.setattr(gpu.engines, "why_not", lambda name: "no NVIDIA driver")
    result = CliRunner().invoke(app, ["--quick"])
    assert result.exit_code == 2
    assert "bench gpu needs a CUDA GPU, and the engine 'cuda' cannot run here: no NVIDIA driver" in result.output


def test_wrong_against():
    result = CliRunner().invoke(app, ["--against", "jax"])
    assert result.exit_code == 2
    assert "against='jax' must be torch" in result.output


def test_the_command_appends_a_line_per_finding(device, tmp_path):
    path = tmp_path / "found.jsonl"
    path.write_text('{"what": "an earlier run"}\n')
    result = CliRunner().invoke(app, ["--quick", "--json", str(path)])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["what"] for one in lines][:4] == ["an earlier run", "machine", "ceiling", "ceiling"]
    assert len(lines) == 4 + 3 * len(TINY)
    assert "a fake GPU" in result.output


def test_the_command_ends_with_1_after_a_miss(device, monkeypatch, tmp_path):
    spoil(monkeypatch, lambda results: results["lse"].__iadd__(1))
    path = tmp_path / "found.jsonl"
    result = CliRunner().invoke(app, ["--quick", "--json", str(path)])
    assert result.exit_code == 1
    assert "forward, bfloat16, B 1, N 80: lse has the error" in result.output
    assert [json.loads(line)["wrong"] for line in path.read_text().splitlines() if '"check"' in line] == [
        True,
        False,
        False,
    ]


def test_lines_are_in_the_file_even_if_the_process_is_killed(tmp_path):
    path = tmp_path / "found.jsonl"
    code = (
        "import os, sys; from gta_ref.bench.gpu import json_lines\n"
        f"with json_lines({str(path)!r}) as record: record({{'a': 1}}); record({{'b': 2}}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]


def test_no_file_without_a_name():
    with gpu.json_lines(None) as record:
        record({"a": 1})


def test_the_table():
    check = {"errors": {"z": 1e-7, "lse": 3e-6}, "allowed": {"z": 1e-5, "lse": 1e-5}, "wrong": False}
    check["not_finite"] = {"z": 0, "lse": 0}
    wrong = {**check, "errors": {"z": 1e-7, "lse": 2e-2}, "wrong": True}
    nan = {**check, "not_finite": {"z": 640, "lse": 0}, "wrong": True}
    host, kernel = {"seconds": 2e-3, "rate": 3e12, "of_ceiling": 0.5}, {"seconds": 1e-3, "rate": 6e12, "of_ceiling": 1}
    failed = {"why_not": "RuntimeError: no capture [here]"}
    contestants = {
        "cuda": {"check": check, "host": host, "kernel": kernel},
        "no graph": {"check": wrong, "host": host, "kernel": failed},
        "unwritten": {"check": nan, "host": host, "kernel": kernel},
        "torch, cuDNN": {"check": {"why_not": "No available kernel [here]"}},
    }
    case = {"name": "forward, N 1", "kind": "forward", "contestants": contestants}
    found = {"device": "GPU", "driver": 13000, "versions": {"torch": None, "numba-cuda": "0.30"}, "cases": [case]}
    found["ceilings"] = {"copy": {"rate": 3e12}, "product": {"why_not": "no cuBLAS"}}
    found["left_out"] = ["forward, N 2", "decode", "decode"]
    text = io.StringIO()
    bench_gpu.show(Console(file=text, width=120), found)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines[:3] == ["GPU, driver 13000, numba-cuda 0.30", "copy: 3,000 GB/s", "product: no cuBLAS"]
    assert "cuda 2.000 1.000 6.0 TFLOP/s 100% 3e-06" in lines
    assert "no graph 2.000 3.0 TFLOP/s 50% lse 2e-02 > 1e-05" in lines
    assert "kernel: RuntimeError: no capture [here]" in lines
    assert "unwritten 2.000 1.000 6.0 TFLOP/s 100% z has 640 NaN or ∞" in lines
    assert "check: No available kernel [here]" in lines
    assert lines[-1] == "left out for lack of time: forward, N 2; decode"


def test_a_warning_is_no_failure_on_a_gpu():
    """There, NumPy and numba-cuda may be newer than those that the tests have seen, and warn of other things."""
    spec = importlib.util.spec_from_file_location("test_gpu", Path(__file__).with_name("test_gpu.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert ("filterwarnings", ("default",)) in [(mark.name, mark.args) for mark in module.pytestmark]
