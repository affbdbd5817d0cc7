"""Which file of a folder answers which exercise of which student."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gta_ref.course import source
from gta_ref.exercises.catalogue import CATALOGUE

SUFFIXES = (".ipynb", ".py")
NUMBER = re.compile(r"(?i)(?<![a-z])ex[ _-]?0?(\d{1,2})(?!\d)")


@dataclass(frozen=True)
class Submission:
    """The files of one student.

    Attributes
    ----------
    student : str
    files : tuple of Path
        Sorted.
    """

    student: str
    files: tuple[Path, ...]

    def answers(self, exercise: str) -> list[Path]:
        """The files that answer an exercise: those with its number in the name, else those that define its function."""
        named = [one for one in self.files if exercise_of(one) == exercise]
        if named:
            return named
        function = CATALOGUE[exercise].function
        return [one for one in self.files if exercise_of(one) is None and _defines(one, function)]


def submissions(folder: Path) -> list[Submission]:
    """Find the students: each folder in `folder` is one, with everything below it, and so is each file.

    Hidden files, links and the checkpoints of Jupyter are left out.

    Raises
    ------
    ValueError
        If there is no student.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one with a folder, or a file, for each student")
    found = []
    for one in sorted(folder.iterdir()):
        if one.name.startswith((".", "__")) or one.is_symlink():
            continue
        if one.is_dir():
            found.append(Submission(one.name, tuple(sorted(path for path in one.rglob("*") if _is_answer(path, one)))))
        elif one.suffix in SUFFIXES:
            found.append(Submission(one.stem, (one,)))
    if not found:
        raise ValueError(f"{folder}: no students; expected a folder, or a file .ipynb or .py, for each")
    return found


def exercise_of(path: Path) -> str | None:
    """The exercise that a file's name has in it, such as "ex03" for ex03_shared_map.ipynb; None without one."""
    for number in NUMBER.findall(path.stem):
        if (name := f"ex{int(number):02}") in CATALOGUE:
            return name
    return None


def _is_answer(path: Path, student: Path) -> bool:
    parts = path.relative_to(student).parts
    return (
        path.suffix in SUFFIXES
        and not any(part.startswith((".", "__")) for part in parts)
        and (path.is_file() and not any((student / Path(*parts[: n + 1])).is_symlink() for n in range(len(parts))))
    )


def _defines(path: Path, function: str) -> bool:
    """Whether a file defines a function, by its text: nothing is run here."""
    try:
        texts = source.cells(path)
    except (ValueError, OSError):
        return False
    return any(re.search(rf"(?m)^(?:def {function}\b|{function}\s*=)", text) for text in texts)
