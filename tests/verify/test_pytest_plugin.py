"""The pytest plugin, tested in separate pytest processes."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from gta_ref.verify import abilities, cases, verify

ROOT = Path(__file__).parents[2]


def pytest_on(tmp_path, code, *options):
    (tmp_path / "test_mine.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(tmp_path / "test_mine.py")]
    # if the package is installed, its entry point loads the plugin; otherwise it must be named
    from importlib import metadata

    if not any(point.value == "gta_ref.verify.pytest_plugin" for point in metadata.entry_points(group="pytest11")):
        command[3:3] = ["-p", "gta_ref.verify.pytest_plugin"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_kernel_right_and_wrong(tmp_path):
    code = """
import numpy as np
import pytest
from gta_ref.verify.selftest import by_engine

@pytest.mark.gta_suite("attention", dtype="float64", capabilities={"attention", "float64", "backward"}, cases=["attention/plain", "attention/w*"])
def test_right(gta_case):
    gta_case.check(by_engine("reference")(gta_case.arrays(), gta_case.settings))

@pytest.mark.gta_suite("attention", dtype="float64", capabilities={"attention", "float64", "backward"}, cases=["attention/plain", "attention/w*"])
def test_wrong(gta_case):
    named = by_engine("reference")(gta_case.arrays(), gta_case.settings)
    gta_case.check({"lse": named["lse"] / np.log(2)})
"""
    done = pytest_on(tmp_path, code)
    assert "test_wrong[attention/plain]" in done.stdout
    assert "likely cause: lse in log₂ instead of natural logarithms" in done.stdout
    assert "FAILED" in done.stdout
    assert not any("test_right" in line for line in done.stdout.splitlines() if line.startswith("FAILED"))


def test_an_implementation_by_option(tmp_path):
    code = """
import pytest

@pytest.mark.gta_suite("lm")
def test_it(gta_case):
    gta_case.run()
"""
    (tmp_path / "conftest.py").write_text("")
    module = tmp_path / "mine_for_option.py"
    module.write_text("from gta_ref.verify.selftest import by_engine\nimpl = by_engine('reference')\n")
    done = pytest_on(tmp_path, code, f"--gta-impl={module.stem}:impl", f"--override-ini=pythonpath={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(cases.suite('lm', 'float32'))} passed" in done.stdout
    done = pytest_on(tmp_path, code)
    assert done.returncode == 1
    assert "needs an implementation" in done.stdout


def test_dtype_has_the_default_of_verify(tmp_path):
    """Capabilities that name no dtype allow every dtype, as for verify(); the default dtype is that of verify()."""
    default = inspect.signature(verify).parameters["dtype"].default
    code = f"""
import pytest
from gta_ref.verify.selftest import by_engine

@pytest.mark.gta_suite("attention", capabilities={{"attention", "backward"}})
def test_it(gta_case):
    assert gta_case.dtype == {default!r}
    gta_case.run(by_engine("reference"))
"""
    done = pytest_on(tmp_path, code)
    able = abilities.abilities({"attention", "backward"})
    cases_of_it = [c for c in cases.suite("attention", default) if abilities.why_skip(c, default, able) is None]
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(cases_of_it)} passed" in done.stdout
    assert len(cases_of_it) > 15


def test_gradients_are_demanded_where_verify_demands_them(tmp_path):
    """Without lse-gradient, d_lse is not handed out and no gradient of its case is judged: by run and by check."""
    code = """
import pytest
from gta_ref.verify.selftest import by_engine

MARK = pytest.mark.gta_suite("attention", capabilities="attention,backward", cases=["attention/through-lse", "attention/plain"])

def mine(arrays, settings):
    assert "d_lse" not in arrays
    return by_engine("reference")(arrays, settings)

@MARK
def test_check(gta_case):
    gta_case.check(mine(gta_case.arrays(), gta_case.settings), wanted=("z", "d_q", "d_k", "d_v"))

@MARK
def test_run(gta_case):
    gta_case.run(mine)

@MARK
def test_gradients_alone(gta_case):
    found = mine(gta_case.arrays(), gta_case.settings)
    gta_case.check({name: x for name, x in found.items() if name.startswith("d_")})

@pytest.mark.gta_suite("attention", cases="attention/through-lse")
def test_all(gta_case):
    assert "d_lse" in gta_case.arrays()
    gta_case.run(by_engine("reference"))
    gta_case.run(mine)
"""
    done = pytest_on(tmp_path, code, "-rs")
    assert "1 failed, 5 passed, 1 skipped" in done.stdout, done.stdout
    assert "nothing but gradients was given, and they need lse-gradient, not declared" in done.stdout
    assert "_ test_all[attention/through-lse] _" in done.stdout


def test_every_argument_of_the_marker(tmp_path):
    code = """
import pytest
from gta_ref.verify import vectors
from gta_ref.verify.selftest import by_engine

@pytest.mark.gta_suite("attention", ["float64", "bfloat16"], "attention, backward", without={"offset"}, head_dim=(16, 32),
                       cases=["attention/plain", "attention/chunk", "attention/width-60", "attention/one-query"], seed=3)
def test_it(gta_case):
    assert gta_case.vector is vectors.make(gta_case.name, gta_case.dtype, 3)
    gta_case.settings["mask"]["causal"] = False
    gta_case.run(by_engine("reference"))

@pytest.mark.gta_suite(cases="layer/mha", dtype="float32,float64")
def test_layer(gta_case):
    gta_case.run(by_engine("reference"))

@pytest.mark.gta_suite("attention", cases=["attention/plain", "attention/huge-logits"], products="tf32")
def test_products(gta_case):
    assert gta_case.vector.products == "tf32"
"""
    done = pytest_on(tmp_path, code, "-rA")
    assert done.returncode == 0, done.stdout + done.stderr
    for test in (
        "test_it[attention/plain-float64]",
        "test_it[attention/plain-bfloat16]",
        "test_layer[layer/mha-float32]",
        "test_layer[layer/mha-float64]",
    ):
        assert any(line.startswith("PASSED") and line.endswith(f"::{test}") for line in done.stdout.splitlines())
    assert "5 passed, 1 skipped" in done.stdout
    assert "attention/huge-logits in tf32: zeros for z is only" in done.stdout


def test_not_implemented_is_a_skip(tmp_path):
    code = """
import pytest

def kernel(arrays, settings):
    raise NotImplementedError("no backward yet")

@pytest.mark.gta_suite("attention", cases="attention/plain")
def test_check(gta_case):
    gta_case.check(kernel(gta_case.arrays(), gta_case.settings))

@pytest.mark.gta_suite("attention", cases="attention/plain")
def test_run(gta_case):
    gta_case.run(kernel)

def test_other():
    kernel(0, 0)
"""
    done = pytest_on(tmp_path, code, "-rs")
    assert "1 failed, 2 skipped" in done.stdout, done.stdout
    assert done.stdout.count("NotImplementedError: no backward yet") >= 2


def test_a_forward_alone(tmp_path):
    code = """
import pytest
from gta_ref.verify.selftest import by_engine

def forward(arrays, settings):
    return {name: x for name, x in by_engine("reference")(arrays, settings).items() if not name.startswith("d_")}

@pytest.mark.gta_suite("attention", "float64", {"attention"}, cases="attention/length-*")
def test_undeclared(gta_case):
    assert gta_case.dtype == "float64"
    gta_case.run(forward)

@pytest.mark.gta_suite("lm", cases=["lm/gta", "lm/gqa-untied"])
def test_missing(gta_case):
    gta_case.run(forward)
"""
    done = pytest_on(tmp_path, code)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2
    assert all("test_missing" in line for line in failed)
    assert (
        f"2 failed, {sum(c.name.startswith('attention/length-') for c in cases.suite('core', 'float64'))} passed"
        in done.stdout
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("dtype='float23'", "dtype='float23' must be one of"),
        ("dtype=None", "dtype=None must be one of"),
        ("'best'", "suite='best' must be one of"),
        ("without=7", "without=7 must be a set of names"),
        ("cases='attention/plian'", "case='attention/plian' matches no case; did you mean attention/plain?"),
        ("capabilities={'telepathy'}", "capabilities='telepathy' must be one of"),
        ("kind='float32'", "unknown kind; expected a suite, dtype, capabilities"),
        ("'core', 'float32', None, (), None, None, 0, None, 7", "unknown 7; expected a suite, dtype, capabilities"),
    ],
)
def test_a_wrong_marker_is_one_line_at_collection(arguments, message, tmp_path):
    code = f"""
import pytest

@pytest.mark.gta_suite({arguments})
def test_it(gta_case):
    pass
"""
    done = pytest_on(tmp_path, code)
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if "gta_suite of" in line and not line.startswith("ERROR")]
    assert len(errors) == 1
    assert errors[0].startswith("gta_suite of ")
    assert f"::test_it: {message}" in errors[0]
    assert "Traceback" not in done.stdout
    assert "pytest_plugin.py" not in done.stdout
