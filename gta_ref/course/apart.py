"""Run an answer in a process of its own, with limits, and turn whatever happens into a verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gta_ref
from gta_ref.process import signal_name

STARTING = 300.0  # most seconds until the process is ready; the first compiles kernels
LONGEST = 2**20  # characters of a line that is read


@dataclass(frozen=True)
class Grade:
    """The grade of one answer.

    Attributes
    ----------
    passed : bool
    share : float
        The share of the exercise's points, from 0 to 1.
    hint : str
    """

    passed: bool
    share: float
    hint: str


def grade(exercise: str, path: Path, seconds: float, mebibytes: int) -> Grade:
    """Grade one file in a fresh process.

    Parameters
    ----------
    exercise : str
        Name of the exercise, such as "ex03".
    path : Path
        The student's notebook or Python file.
    seconds : float
        Most seconds for the file and its check.
    mebibytes : int
        Most memory that a process may allocate.

    Returns
    -------
    Grade

    Raises
    ------
    ValueError
        If the process cannot start, which is no fault of the answer.
    """
    command = [
        sys.executable,
        "-P",
        "-W",
        "ignore",
        "-m",
        "gta_ref.course.answer",
        exercise,
        str(path.resolve()),
        str(mebibytes),
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            if _read(process, process.stdout, STARTING) != "ready":
                errors.seek(0)
                last = errors.read()[-500:].decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise ValueError(f"the process that runs the answers does not start: {last or 'no message'}")
            verdict = _read(process, process.stdout, seconds)
            share = None
            if isinstance(verdict, dict) and exercise == "ex13":
                share = _read(process, process.stdout, seconds)
        finally:
            _kill(process)
            process.stdout.close()
    if verdict is None:
        return Grade(False, 0.0, f"The answer did not finish within {seconds:g} s.")
    if verdict == "":
        return Grade(False, 0.0, f"The answer ended the Python process ({_ending(process.returncode)}).")
    passed = bool(verdict["passed"])
    return Grade(passed, 1.0 if passed else float(share or 0.0), str(verdict["hint"]))


def _read(process: subprocess.Popen[bytes], pipe: IO[bytes], seconds: float) -> Any:
    """The next line's content; None if the time was over before, "" if the process ended without another line."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        line = pipe.readline(LONGEST)
    finally:
        timer.cancel()
    if line.endswith(b"\n"):
        return json.loads(line)
    if late.is_set():
        return None
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)  # for its exit status
    return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and those that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _ending(status: int) -> str:
    return signal_name(-status) if status < 0 else f"exit status {status}"


def _environment() -> dict[str, str]:
    """The environment of the process: this package is found, and figures need no screen."""
    package = str(Path(gta_ref.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{others}" if others else package,
        "MPLBACKEND": "Agg",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
