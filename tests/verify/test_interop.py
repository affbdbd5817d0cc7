"""Independent implementations in PyTorch and JAX (docs/examples) pass; `make interop` installs these packages."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gta_ref.verify import abilities, cases

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


def applicable(dtypes, capabilities):
    """Number of cases in the suite "core" that an implementation must pass: those that need only its capabilities."""
    able = abilities.abilities(capabilities.split(","))
    found = [(case, dtype) for dtype in dtypes.split(",") for case in cases.suite("core", dtype)]
    return sum(not abilities.lacking(abilities.needs(case, dtype), able) for case, dtype in found)


def test_some_cases_apply_and_others_do_not():
    every = [len(cases.suite("core", dtype)) for dtype in cases.DTYPES]
    assert 30 < applicable("float64", CAPABILITIES) < applicable("float64", CAPABILITIES + ",decode") < max(every)
    assert applicable("float64", "layer,mla") < applicable("float64", CAPABILITIES)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed; make interop")
def test_torch():
    dtypes, capabilities = "float64,float32,bfloat16,float16", CAPABILITIES + ",decode"
    done = verify("docs.examples.gta_torch:gta", "torch", dtypes, capabilities)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"{applicable(dtypes, capabilities)} pass" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed; make interop")
@pytest.mark.parametrize("dtypes, x64", [("float32,bfloat16,float16", "0"), ("float64", "1")])
def test_jax(dtypes, x64):
    done = verify("docs.examples.gta_jax:gta", "jax", dtypes, CAPABILITIES, JAX_ENABLE_X64=x64)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"{applicable(dtypes, CAPABILITIES)} pass" in done.stdout
