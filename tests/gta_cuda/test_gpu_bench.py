"""`gta-ref bench gpu`: the parts that need no GPU. The rest is tested in test_gpu.py."""

import io

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from gta_ref.bench import gpu
from gta_ref.commands import bench_gpu

app = typer.Typer()
app.command()(bench_gpu.gpu)


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
    ceilings = {"copy": 1000.0, "product": 1e6}
    decode = gpu.Case("decode", "bfloat16", 1, 10)
    found = gpu.summary(decode, [4.0, 100.0, 2.0], ceilings)
    assert found == {"seconds": 4.0, "rate": 960.0, "of_ceiling": 0.96}
    forward = gpu.Case("forward", "bfloat16", 1, 2)
    assert gpu.summary(forward, [1.0], ceilings)["of_ceiling"] == pytest.approx(5760 / 1e6)
    assert "of_ceiling" not in gpu.summary(gpu.Case("forward", "float32", 1, 2), [1.0], ceilings)


def test_cases():
    found = gpu.cases()
    assert len({case.name for case in found}) == len(found)
    assert {(c.batch, c.length) for c in found if c.kind == "decode"} == {(1, 131072), (32, 8192)}
    assert {c.length for c in found if c.kind == "forward"} == {1024, 2048, 4096, 8192, 16384}
    assert len(gpu.cases(quick=True)) < len(found)


def test_it_says_why_it_cannot_run(monkeypatch):
    monkeypatch.setattr(gpu.engines, "why_not", lambda name: "no NVIDIA driver")
    result = CliRunner().invoke(app, ["--quick"])
    assert result.exit_code == 2
    assert "bench gpu needs a CUDA GPU, and the engine 'cuda' cannot run here: no NVIDIA driver" in result.output


def test_wrong_against():
    result = CliRunner().invoke(app, ["--against", "jax"])
    assert result.exit_code == 2
    assert "against='jax' must be torch" in result.output


def test_the_table():
    contestants = {
        "cuda": {"seconds": 2e-3, "rate": 3e12, "of_ceiling": 0.5},
        "torch, cuDNN": {"why_not": "No available kernel [here]"},
    }
    case = {"name": "forward, N 1", "kind": "forward", "error": 1e-7, "contestants": contestants}
    found = {"device": "GPU", "driver": 13000, "versions": {"torch": None, "numba-cuda": "0.30"}, "cases": [case]}
    found["ceilings"] = {"copy": 3e12, "product": 6e14}
    text = io.StringIO()
    bench_gpu.show(Console(file=text, width=120), found)
    assert "numba-cuda 0.30" in text.getvalue()
    assert "torch None" not in text.getvalue()
    assert "2.000" in text.getvalue()
    assert "3.0 TFLOP/s" in text.getvalue()
    assert "No available kernel [here]" in text.getvalue()
