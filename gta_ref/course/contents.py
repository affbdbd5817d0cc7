"""Which files of the tree belong to the course.

``setup.py`` loads this file by itself to copy them into a wheel, so it imports only what comes with Python.
"""

from __future__ import annotations

from pathlib import Path

# patterns of the files, relative to the root of the tree; ** stands for any folders
FILES = (
    "LICENSE*",
    "notebooks/*.ipynb",
    "notebooks/constraints.txt",
    "notebooks/exercises/*.ipynb",
    "notebooks/exercises/solutions/*.ipynb",
    "docs/*.md",
    "docs/LICENSE*",
    "docs/examples/**/*",
    "docs/explorer/**/*",
    "docs/images/**/*",
    "docs/slides/**/*",
    "docs/studies/**/*",
)
NOT_THE_COURSE = ("docs/index.md", "docs/commands.md")  # they consist of directives of the site
SOLUTIONS = "notebooks/exercises/solutions"


def contents(root: Path, solutions: bool = True) -> list[Path]:
    """List the course's files below `root`, relative to it and sorted; without the solutions if so wished."""
    found = {
        one.relative_to(root)
        for pattern in FILES
        for one in root.glob(pattern)
        if one.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(one.parts)
    }
    left_out = {Path(name) for name in NOT_THE_COURSE}
    return sorted(one for one in found - left_out if solutions or not one.is_relative_to(SOLUTIONS))
