"""Make starters from solutions. Each exercise has one master, its solution, so that the two cannot drift apart.

    python -m gta_ref.exercises.starters notebooks/exercises

writes a starter for every file in ``solutions/``. The masters carry otter-grader's marks: ``# BEGIN SOLUTION`` in the
code, and raw cells such as ``# BEGIN QUESTION``. In the starter, the raw cells are removed, everything between
``# BEGIN TESTS`` and ``# END TESTS`` is removed, and a solution becomes ``...``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gta_ref.files import atomic_path

CELL = re.compile(r"(?m)^(?=# %%)")
SOLUTION = re.compile(r"(?ms)^( *)# BEGIN SOLUTION\n.*?# END SOLUTION$")


def starter(master: str) -> str:
    """Make the text of a starter from the text of its master, both in jupytext's percent format.

    Raises
    ------
    ValueError
        If the master has no solution.
    """
    head, *cells = CELL.split(master)
    kept, in_tests = [], False
    for cell in cells:
        if cell.startswith("# %% [raw]"):
            in_tests = "# BEGIN TESTS" in cell or (in_tests and "# END TESTS" not in cell)
        elif not in_tests:
            kept.append(SOLUTION.sub(r"\1...", cell).rstrip() + "\n")
    text = head.rstrip() + "\n\n"
    for before, cell in zip(["", *kept], kept, strict=False):
        # two blank lines around a function, as the formatter requires
        apart = "\n\n" if _ends_or_begins_with_function(before, cell) else "\n"
        text += (apart if before else "") + cell
    if text.count("...") == 0 or "SOLUTION" in text:
        raise ValueError("no solution between # BEGIN SOLUTION and # END SOLUTION in this notebook")
    return text


def _ends_or_begins_with_function(before: str, cell: str) -> bool:
    body = before.rstrip().splitlines()
    return cell.startswith("# %%\ndef ") or (bool(body) and body[-1].startswith("    ") and "\ndef " in before)


def write_all(folder: Path) -> list[Path]:
    """Write the starter of every ``folder/solutions/*.py`` into `folder`."""
    written = []
    for master in sorted((folder / "solutions").glob("ex*.py")):
        path = folder / master.name
        with atomic_path(path) as temporary:
            temporary.write_text(starter(master.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "solutions").is_dir():
        sys.exit("usage: python -m gta_ref.exercises.starters FOLDER (it has to contain a folder solutions/)")
    for path in write_all(Path(sys.argv[1])):
        print(path)
