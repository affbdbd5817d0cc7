"""isolate: whatever an implementation does to its process is a named error of one case, and the others run."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gta_ref.verify import verify

ROOT = Path(__file__).parents[2]
# what the implementation below does in a case, by its number of queries, and what the report says
FAULTS = {
    63: ("sys.exit(0)", r"it called sys.exit\(0\) \(mine_isolated.py:\d+\)"),
    64: ("os._exit(0)", "its process ended with exit status 0 in the middle of the case"),
    65: ("os.kill(os.getpid(), signal.SIGFPE)", r"its process was ended by SIGFPE \(mine_isolated.py:\d+\)"),
    127: ("ctypes.string_at(0)", r"its process was ended by SIGSEGV \(mine_isolated.py:\d+\)"),
    128: ("loop()", r"took longer than 4 s \(mine_isolated.py:7\)"),
    129: ("np.ones(10**15)", r"MemoryError: .*\(mine_isolated.py:\d+\)"),
    1: (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "its process was ended by SIGKILL, as by a system that is out of memory",
    ),
    2: ("raise RuntimeError('no luck')", r"RuntimeError: no luck \(mine_isolated.py:\d+\)"),
}
CODE = """
import ctypes, os, signal, sys
import numpy as np
from gta_ref.verify.selftest import by_engine

def loop():
    while True: pass

def faults(arrays, settings):
    assert "case" not in settings
    print("noise"); os.write(1, b"noise of C\\n")
    n = arrays["q"].shape[2]
{faults}
    return by_engine("reference")(arrays, settings)

def right(arrays, settings):
    return by_engine("reference")(arrays, settings)

class Kernel:
    calls = 0
    def __call__(self, arrays, settings):
        self.calls += 1
        found = right(arrays, settings)
        return {{**found, "z": found["z"] * (1 if self.calls < 5 else 2)}}

kernel = Kernel()

def forward_alone(arrays, settings):
    return {{name: x for name, x in right(arrays, settings).items() if not name.startswith("d_")}}

forward_alone.capabilities = {{"attention", "lse"}}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    faults = "\n".join(f"    if n == {n}: {code}" for n, (code, _) in FAULTS.items())
    (tmp_path / "mine_isolated.py").write_text(CODE.format(faults=faults))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return "mine_isolated"


def test_every_end_of_a_process_is_an_error_of_its_case(module, capfd):
    names = [*(f"attention/length-{n}" for n in FAULTS), "attention/plain"]
    report = verify(f"{module}:faults", cases=names, isolate=True, timeout=4, without="lse-gradient")
    found = {result.case: result for result in report.results}
    for n, (_, text) in FAULTS.items():
        result = found[f"attention/length-{n}"]
        assert result.status == "error"
        assert re.fullmatch(text, result.text), result.text
    assert found["attention/plain"].status == "pass"
    assert report.counts["error"] == len(FAULTS)
    assert report.exit_status == 1
    assert found["attention/length-2"].where.startswith("mine_isolated.py:")
    assert "raise RuntimeError" in found["attention/length-2"].traceback
    out, err = capfd.readouterr()
    assert out == ""
    assert "noise" in err
    assert "noise of C" in err


def test_right_and_wrong_are_told_as_without(module, monkeypatch):
    monkeypatch.syspath_prepend(".")
    cases = ["attention/plain", "attention/chunk", "layer/gta-paper"]
    for impl in (f"{module}:right", __import__(module).right):  # by name, or a function of a module
        assert verify(impl, cases=cases, isolate=True).counts["pass"] == 3
    report = verify(f"{module}:kernel", cases=["attention/plain", "attention/chunk"], isolate=True)  # keeps its state
    assert [result.status for result in report.results] == ["pass", "pass"]
    report = verify(f"{module}:kernel", cases="attention/plain", isolate=True, repeat=5)
    assert report.results[0].text == "z differs from run to run (run 1 and run 5)"


@pytest.mark.parametrize(
    "code, message",
    [
        (
            "import sys; sys.exit(0)",
            r"impl='bad_import:x' cannot be imported: it called sys.exit\(0\) \(bad_import.py:1\)",
        ),
        (
            "import os; os._exit(0)",
            "impl cannot be imported in a process of its own: its process ended with exit status 0",
        ),
        ("1 / 0", r"impl='bad_import:x' cannot be imported: ZeroDivisionError: division by zero \(bad_import.py:1\)"),
        ("y = 1", "impl='bad_import:x': bad_import has no x"),
        ("def x(q, k, v): pass", r"impl is a function x\(q, k, v\); expected a function of \(arrays, settings\)"),
    ],
)
def test_what_cannot_be_imported(code, message, tmp_path, monkeypatch):
    (tmp_path / "bad_import.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        verify("bad_import:x", "attention", isolate=True)


def test_an_implementation_says_what_it_can_do(module):
    cases = ["attention/plain", "attention/chunk"]
    assert verify(f"{module}:right", cases=cases, isolate=True).run["capabilities"] is None
    report = verify(f"{module}:forward_alone", cases=cases, isolate=True)
    assert report.counts["pass"] == 2
    assert sorted(report.run["capabilities"]) == ["attention", "lse"]
    told = verify(f"{module}:forward_alone", cases=cases, isolate=True, capabilities="attention,backward")
    assert told.counts["missing"] == 2


def test_what_cannot_be_sent():
    with pytest.raises(ValueError, match=r"cannot be sent to a process of its own; expected package\.module:name"):
        verify(lambda arrays, settings: {}, "attention", isolate=True)
    with pytest.raises(ValueError, match="timeout needs isolate"):
        verify("a:b", "attention", timeout=3)
    with pytest.raises(ValueError, match="timeout=0 must be"):
        verify("a:b", "attention", isolate=True, timeout=0)


def test_a_script(tmp_path):
    """A function of the script itself needs the guard of spawned processes; a name does not."""
    (tmp_path / "named.py").write_text("from gta_ref.verify.selftest import by_engine\nmine = by_engine('reference')")
    code = """
        from gta_ref.verify import verify
        from gta_ref.verify.selftest import by_engine

        def mine(arrays, settings):
            return by_engine("reference")(arrays, settings)

        def main(impl=mine):
            print(verify(impl, cases="attention/plain", isolate=True).summary)
        """
    script = tmp_path / "script.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for last, err in (
        ("if __name__ == '__main__': main()", ""),
        ("main()", "needs `if __name__ == '__main__':` around it"),
        ("main('named:mine')", ""),
    ):
        script.write_text(textwrap.dedent(code) + "\n" + last + "\n")
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert ("1 pass" in done.stdout) == (not err), done.stderr
        assert err in done.stderr
    done = subprocess.run(
        [sys.executable, "-"],
        cwd=tmp_path,
        input=script.read_text(),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "1 pass" in done.stdout, done.stderr


def test_no_process_is_left(module):
    import multiprocessing

    with pytest.raises(ZeroDivisionError):
        verify(f"{module}:right", cases="attention/plain", isolate=True, progress=lambda text: 1 / 0)
    assert multiprocessing.active_children() == []
