"""The engine's messages on a machine without a GPU, and the arguments that it refuses. Nothing here computes."""

import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from gta_cuda import engine, resources
from gta_ref import cli
from gta_ref.core import EngineError, engines


def fake(shape, dtype="float32", device=0):
    """A stand-in for a CuPy array with the attributes that `check` reads."""
    cls = type("ndarray", (), {"__module__": "cupy"})
    x = cls()
    x.shape, x.dtype = shape, np.dtype(dtype)
    x.device = type("Device", (), {"id": device})()
    return x


Q, K = (2, 4, 3, 8), (2, 2, 5, 8)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Reset what the engine has found out about the machine before and after a test."""
    monkeypatch.setattr(engine, "_can_run", False)


def test_why_not_is_one_line_and_light():
    code = (
        "import sys; from gta_cuda import engine; print(engine.why_not()); "
        "print([m for m in ('numba', 'cupy', 'llvmlite') if m in sys.modules])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2
    assert lines[1] == "[]"


def test_that_it_can_run_is_asked_once(monkeypatch):
    answers = ["no NVIDIA driver", "no GPU", None]
    monkeypatch.setattr(engine, "_look", lambda: answers.pop(0))
    assert [engine.why_not() for _ in range(5)] == ["no NVIDIA driver", "no GPU", None, None, None]
    assert engines.load("cuda") is engine


@pytest.mark.parametrize("missing, reason", [("numba_cuda", "numba-cuda is not installed"), ("cupy", "CuPy is not in")])
def test_why_not_names_what_is_missing(missing, reason, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert engine.why_not().startswith(reason)
    assert "gta-ref[cuda13]" in engine.why_not()


def test_why_not_without_a_driver(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(engine.ctypes, "CDLL", absent)
    assert engine.why_not().startswith("no NVIDIA driver")
    with pytest.raises(EngineError, match="engine 'cuda' cannot run here: no NVIDIA driver"):
        engines.load("cuda")


@pytest.mark.parametrize("capability, reason", [((7, 5), "the GPU has compute capability 7.5"), ((9, 0), None)])
def test_why_not_asks_the_driver(capability, reason, monkeypatch):
    class Driver:
        def cuInit(self, flags):
            return 0

        def cuDeviceGetCount(self, count):
            count._obj.value = 1
            return 0

        def cuDeviceGetAttribute(self, value, attribute, device):
            value._obj.value = capability[attribute - 75]
            return 0

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(engine.ctypes, "CDLL", lambda name: Driver())
    found = engine.why_not()
    assert found is None if reason is None else found.startswith(reason)


def test_check():
    engine.check(fake(Q), fake(K), fake(K))
    engine.check(fake(Q, "float16"), fake(K, "float16"), fake(K, "float16"))


@pytest.mark.parametrize(
    "q, k, message",
    [
        (
            np.zeros(Q),
            fake(K),
            r"q is a numpy\.ndarray; engine 'cuda' takes CuPy arrays: move it with cupy\.asarray\(q",
        ),
        (fake(Q), np.zeros(K), r"k is a numpy\.ndarray; engine 'cuda' takes CuPy arrays"),
        (fake(Q, "float64"), fake(K, "float64"), "q has dtype float64; engine 'cuda' takes float32, bfloat16, float16"),
        (fake(Q), fake((2, 2, 2**23, 8)), "k has N_k=8388608; engine 'cuda' takes up to 4,194,240 queries and keys"),
        (fake(Q, device=1), fake(K), "q is on GPU 1; engine 'cuda' takes arrays on GPU 0"),
    ],
)
def test_refused(q, k, message):
    with pytest.raises(EngineError, match=message):
        engine.check(q, k, k)


def test_numpy_arrays_when_asked_for():
    q, k, v = (np.zeros(shape, np.float32) for shape in (Q, K, K))
    with engine.accept_numpy():
        engine.check(q, k, v)
        with engine.accept_numpy():
            engine.check(q, k, v)
        engine.check(q, k, v)
    with pytest.raises(EngineError, match=r"or call within `with gta_cuda\.engine\.accept_numpy\(\):`"):
        engine.check(q, k, v)
    with pytest.raises(ZeroDivisionError), engine.accept_numpy():
        raise ZeroDivisionError
    with pytest.raises(EngineError):
        engine.check(q, k, v)


def test_doctor_says_why_not():
    result = CliRunner().invoke(cli.app, ["doctor"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "cuda" in result.output


def test_doctor_shows_the_kernels(monkeypatch, tmp_path):
    one = {"kernel": "forward", "arch": "sm_80", "threads": 256, "registers": 125, "spills": 0, "stack": 0}
    one |= {"shared": 43008, "blocks": 2, "hmma": 0, "local": 0}
    monkeypatch.setattr(resources, "why_not", lambda: None)
    two, three = {"arch": "sm_90", "registers": 127, "hmma": None}, {"arch": "sm_90a", "registers": 127, "stack": 16}
    hopper = {**one, "kernel": "forward_wgmma", "arch": "sm_90a", "registers": 168}
    monkeypatch.setattr(resources, "table", lambda: [one, {**one, **two}, {**one, **three}, hopper])
    path = tmp_path / "kernels.json"
    result = CliRunner().invoke(cli.app, ["doctor", "--kernels", "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "125 / 127 " in result.output
    assert "0 / 0 / 16" in result.output
    assert "(sm_90a" in result.output
    assert "0 / ? / 0" in result.output
    assert "43,008" in result.output
    assert '"sm_90"' in path.read_text()


def test_doctor_says_what_compiling_needs(monkeypatch):
    monkeypatch.setattr(resources, "why_not", lambda: "numba-cuda is not installed")
    result = CliRunner().invoke(cli.app, ["doctor", "--kernels"])
    assert result.exit_code == 2
    assert "the kernels cannot be compiled here: numba-cuda is not installed" in result.output
