"""Ctrl-C in every part of the command's life: one line on stderr, status 130, no traceback, nothing half done.

The signals are real. An audit hook, set by a sitecustomize.py, sends one to the process at its n-th import, so that the
moments are the same on every machine; other signals come after a time.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals are those of POSIX")

AT_AN_IMPORT = """
import os, signal, sys

count = 0

def hook(event, arguments):
    global count
    if event == "import" and (count or arguments[0] == os.environ["STOP_AFTER"]):
        count += 1
        if count == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
"""
SMALL = ["--batch", "2", "--length", "32", "--hidden-size", "32", "--n-layers", "1"]


def start(*arguments, ignore=False, **environment):
    """Start the command in a process group of its own, as a terminal does."""
    # a job in a shell's background ignores SIGINT, and so would its children
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN if ignore else signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "gta_ref", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen,
    )


def finish(process):
    try:
        stdout, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # the library's notices, of compiling for example, depend on the machine and its cache
    said = [line for line in stderr.splitlines(keepends=True) if not line.startswith("gta_ref: ")]
    return process.returncode, stdout, "".join(said)


def stopped_at_imports(folder, after, numbers, *arguments):
    """Stop the command at its n-th import after the module `after`, for each n until it ends before that; count the runs."""
    (folder / "sitecustomize.py").write_text(AT_AN_IMPORT)
    for runs, number in enumerate(numbers):
        process = start(*arguments, PYTHONPATH=str(folder), STOP_AFTER=after, STOP_AT=str(number))
        status, _, stderr = finish(process)
        if status == 0:
            return runs
        assert status == 130, (number, stderr)
        assert stderr == "gta-ref: stopped\n" or "stopped after step 0; continue: " in stderr, number
        assert stderr.count("\n") == 1, stderr
    raise AssertionError(f"the command imports more than {max(numbers)} modules")


def test_while_the_command_is_imported(tmp_path):
    assert stopped_at_imports(tmp_path, "gta_ref.commands.app", range(1, 2000, 12), "--version") > 8


def test_while_a_subcommand_imports_what_it_needs(tmp_path):
    """NumPy, Numba and SciPy, and the C++ and the generated code in them."""
    text = tmp_path / "text.txt"
    text.write_bytes(b"the cat sat on the mat. " * 200)
    out = tmp_path / "run.safetensors"
    command = ["train", "--text", text, "--steps", 1, "--engine", "numba", "--out", out, *SMALL]
    assert stopped_at_imports(tmp_path, "numpy", range(1, 4000, 67), *command) > 8
    assert out.is_file()


def test_a_background_job_does_not_hear_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT)
    for number in (1, 60):
        process = start(
            "doctor", ignore=True, PYTHONPATH=str(tmp_path), STOP_AFTER="gta_ref.commands.app", STOP_AT=str(number)
        )
        assert finish(process)[::2] == (0, "")


def test_during_a_long_computation():
    process = start("verify", "--self-test")
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)
    status, _, stderr = finish(process)
    assert (status, stderr.splitlines()[-1]) == (130, "gta-ref: stopped")  # after lines of progress


@pytest.mark.parametrize("seconds", [0.4, 1.2, 2.5, 4.0])
def test_study(tmp_path, seconds):
    """A terminal sends the signal to the processes of the runs as well, which have not been imported yet, or train."""
    process = start("study", "gate", "--quick", "--out", tmp_path / "runs")
    for _ in range(600):  # its first files are written when its check of the folder is done
        if (tmp_path / "runs").is_dir():
            break
        time.sleep(0.05)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    status, _, stderr = finish(process)
    if status == 0:
        pytest.skip(f"on this machine the study is done within {seconds} s")
    assert status == 130
    assert stderr in ("gta-ref: stopped\n", "gta-ref: stopped; the same command continues where it was\n")


def test_a_study_that_was_stopped_continues(tmp_path):
    """Only the study's process receives the signal; it tells those of the runs to stop after their current step."""
    process = start("study", "mechanisms", "--out", tmp_path / "runs")
    for _ in range(600):
        if (tmp_path / "runs").is_dir():
            break
        time.sleep(0.05)
    time.sleep(12)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    status, _, stderr = finish(process)
    assert (status, stderr) == (130, "gta-ref: stopped; the same command continues where it was\n")
    assert time.monotonic() - began < 60
    saved = list((tmp_path / "runs").glob("*.safetensors"))
    from gta_ref.lm import train

    assert len(saved) == 2
    assert all(0 < train.load(path).state.step < 600 for path in saved)
