"""The pytest plugin, in pytest processes of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pytest_on(tmp_path, code, *options):
    (tmp_path / "test_mine.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(tmp_path / "test_mine.py")]
    # where the package is installed, its entry point brings the plugin; else name it
    from importlib import metadata

    if not any(point.value == "gta_ref.verify.pytest_plugin" for point in metadata.entry_points(group="pytest11")):
        command[3:3] = ["-p", "gta_ref.verify.pytest_plugin"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_kernel_right_and_wrong(tmp_path):
    code = """
import numpy as np
import pytest
from gta_ref.verify.selftest import by_engine

@pytest.mark.gta_suite("attention", dtype="float64", capabilities={"attention", "float64", "backward"})
def test_right(gta_case):
    gta_case.check(by_engine("reference")(gta_case.arrays(), gta_case.settings))

@pytest.mark.gta_suite("attention", dtype="float64", capabilities={"attention", "float64", "backward"})
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
    assert "2 passed" in done.stdout
    done = pytest_on(tmp_path, code)
    assert done.returncode == 1
    assert "needs an implementation" in done.stdout
