"""The exercises as one assignment for otter-grader or for nbgrader, made from the solutions.

    python -m gta_ref.course.assignment otter gta.ipynb
    python -m gta_ref.course.assignment nbgrader source/gta

The first writes one notebook with all exercises, for ``otter assign``; the second a folder with a notebook for each,
for ``nbgrader generate_assignment``. Neither of the two programs is needed to write them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gta_ref.course.place import path
from gta_ref.course.points import POINTS
from gta_ref.exercises.catalogue import CATALOGUE
from gta_ref.files import write_json

Cell = dict[str, Any]
CONFIG = "# ASSIGNMENT CONFIG\nname: gta\nexport_cell: false\ntests:\n    ok_format: false"


def otter() -> dict[str, Any]:
    """Join all solutions in one notebook with otter-grader's marks; each exercise is a question."""
    cells = [_raw(CONFIG)]
    for name, master in _masters():
        for cell in master["cells"]:
            text = "".join(cell["source"])
            if text.startswith("# BEGIN QUESTION"):
                cells.append(_raw(f"{text.rstrip()}\npoints: {POINTS[name]}"))
            elif not text.startswith("# ASSIGNMENT CONFIG"):
                cells.append(cell)
    return _notebook(cells)


def nbgrader() -> dict[str, dict[str, Any]]:
    """Return the notebook of each exercise with nbgrader's marks: a cell for the answer, and one that checks it."""
    found = {}
    for name, master in _masters():
        cells = []
        for cell in _without_tests(master["cells"]):
            text = "".join(cell["source"])
            if cell["cell_type"] == "code" and "# BEGIN SOLUTION" in text:
                cell = _marked(cell, f"{name}-answer", solution=True)
            elif cell["cell_type"] == "code" and text.startswith(f'check("{name}"'):
                function = CATALOGUE[name].function
                lines = f'verdict = check("{name}", {function})\nassert verdict.passed, verdict\nverdict'
                cell = _marked({**cell, "source": lines}, f"{name}-check", points=POINTS[name])
            cells.append(cell)
        found[name] = _notebook(cells)
    return found


def _masters() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(path("notebooks/exercises/solutions").glob("ex*.ipynb")):
        yield file.name[:4], json.loads(file.read_text(encoding="utf-8"))


def _without_tests(cells: list[Cell]) -> Iterator[Cell]:
    """The cells without otter-grader's: the raw ones, and those between the marks of its tests."""
    in_tests = False
    for cell in cells:
        if cell["cell_type"] == "raw":
            text = "".join(cell["source"])
            in_tests = "# BEGIN TESTS" in text or (in_tests and "# END TESTS" not in text)
        elif not in_tests:
            yield cell


def _marked(cell: Cell, name: str, solution: bool = False, points: int = 0) -> Cell:
    marks = {
        "grade": points > 0, "grade_id": name, "locked": points > 0, "schema_version": 3, "solution": solution,
        "task": False, **({"points": points} if points else {}),
    }  # fmt: skip
    return {**cell, "metadata": {**cell["metadata"], "nbgrader": marks}}


def _raw(text: str) -> Cell:
    return {"cell_type": "raw", "metadata": {}, "source": text}


def _notebook(cells: list[Cell]) -> dict[str, Any]:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    numbered = [{**cell, "id": f"cell-{i}"} for i, cell in enumerate(cells)]
    return {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def main(arguments: list[str]) -> int:
    """Write what is asked for and return the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("otter", "nbgrader"):
        print("usage: python -m gta_ref.course.assignment otter FILE.ipynb | nbgrader FOLDER", file=sys.stderr)
        return 2
    target = Path(arguments[1])
    try:
        if arguments[0] == "otter":
            write_json(target, otter())
        else:
            target.mkdir(parents=True, exist_ok=True)
            for name, notebook in nbgrader().items():
                write_json(target / f"{name}.ipynb", notebook)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
