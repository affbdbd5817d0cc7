"""Independent implementations in PyTorch and JAX (docs/examples) pass; `make interop` installs what they need."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CAPABILITIES = "attention,layer,gta,backward,padding,deterministic"


def verify(impl, library, dtypes, capabilities, **environment):
    import os

    command = [sys.executable, "-m", "gta_ref.cli", "verify", "--impl", impl, "--arrays", library]
    command += ["--dtype", dtypes, "--capabilities", capabilities]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed; make interop")
def test_torch():
    done = verify("docs.examples.gta_torch:gta", "torch", "float64,float32,bfloat16,float16", CAPABILITIES + ",decode")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "179 pass" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed; make interop")
@pytest.mark.parametrize("dtypes, x64, passed", [("float32,bfloat16,float16", "0", 118), ("float64", "1", 42)])
def test_jax(dtypes, x64, passed):
    done = verify("docs.examples.gta_jax:gta", "jax", dtypes, CAPABILITIES, JAX_ENABLE_X64=x64)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"{passed} pass" in done.stdout
