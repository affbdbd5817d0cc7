"""The process that runs one student's answer to one exercise: ``python -m gta_ref.course.answer EXERCISE FILE MIB``.

It writes lines of JSON to its standard output: one when it is ready, one with the verdict, and one with the share of
exercise 13 that is right. What the student's code prints goes nowhere, and it has no standard input.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from gta_ref import exercises
from gta_ref.course import source
from gta_ref.course.points import LAYER, share_of_layer
from gta_ref.exercises.catalogue import CATALOGUE
from gta_ref.exercises.verdict import Verdict


def grade(exercise: str, path: Path, folder: Path) -> tuple[dict[str, Any], Any]:
    """Run a file and check the function that the exercise asks for.

    Returns
    -------
    verdict : dict
        passed, hint.
    function : object
        What the file defines by the function's name; None if it does not.
    """
    wanted = CATALOGUE[exercise].function
    exercises.check = _unchecked  # the file's own checks only cost time here
    try:
        names, problem = source.run(path, folder)
    except ValueError as error:
        return {"passed": False, "hint": f"{path.name}: {error}."}, None
    function = names.get(wanted)
    if function is None:
        reason = f": {problem}" if problem else ""
        return {"passed": False, "hint": f"{path.name} defines no {wanted}{reason}."}, None
    verdict = CATALOGUE[exercise].examine(function)
    return {"passed": verdict.passed, "hint": verdict.hint}, function


def _unchecked(name: str, function: Any) -> Verdict:
    return Verdict(name, False, "not checked here")


def limit_memory(mebibytes: int) -> None:
    """Limit what this process and its children may each allocate; not on Windows, and without effect on macOS."""
    try:
        import resource
    except ImportError:
        return
    size = mebibytes * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or size < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def main() -> None:
    """Take the place of standard output and input, then grade."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if hasattr(os, "register_at_fork"):  # the student's own processes must not keep the pipe open
        os.register_at_fork(after_in_child=lambda: os.close(report.fileno()))
    exercise, path, mebibytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    _say(report, "ready")
    limit_memory(mebibytes)
    with tempfile.TemporaryDirectory() as name:
        try:
            verdict, function = grade(exercise, path, Path(name))
        except BaseException as error:
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            verdict, function = {"passed": False, "hint": f"The check itself failed, which needs a look: {what}"}, None
        _say(report, verdict)
        if exercise == LAYER and not verdict["passed"]:
            _say(report, share_of_layer(function) if callable(function) else 0.0)
    report.flush()
    os._exit(0)  # threads that the student's code has started do not matter any more


def _say(report: TextIO, content: Any) -> None:
    report.write(json.dumps(content) + "\n")
    report.flush()


if __name__ == "__main__":
    main()
