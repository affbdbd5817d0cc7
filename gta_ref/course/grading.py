"""Grade every exercise of every student, each in a process of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gta_ref.course import apart
from gta_ref.course.points import POINTS
from gta_ref.course.submissions import Submission, submissions
from gta_ref.errors import as_positive_float, as_size, check_choice
from gta_ref.files import atomic_path

COLUMNS = ("student", "exercise", "passed", "points", "of", "hint")
SECONDS = 120.0
MEBIBYTES = 4096


@dataclass(frozen=True)
class Row:
    """The grade of one exercise of one student.

    Attributes
    ----------
    student, exercise : str
    passed : bool
    points : float
        With one decimal.
    of : int
        The most points for this exercise.
    hint : str
        What the check says, or why there is nothing to check.
    """

    student: str
    exercise: str
    passed: bool
    points: float
    of: int
    hint: str


def grade(
    folder: Path, exercises: Sequence[str] = tuple(POINTS), seconds: float = SECONDS, mebibytes: int = MEBIBYTES,
    jobs: int = 1, progress: Callable[[str], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Grade a folder of answers.

    Parameters
    ----------
    folder : Path
        With a folder, or a file, for each student.
    exercises : sequence of str
        Names such as "ex03".
    seconds : float
        Most seconds for one answer.
    mebibytes : int
        Most memory that one process may allocate.
    jobs : int
        How many answers run at the same time.
    progress : callable, optional
        Called before each answer with a text such as "12 of 780 ex03 of anna".

    Returns
    -------
    rows : list of Row
        One for each student and exercise, in their order.

    Raises
    ------
    ValueError
        If the folder has no students, an argument is wrong, or no process can start.
    """
    for name in exercises:
        check_choice("exercise", name, tuple(POINTS))
    seconds = as_positive_float("seconds", seconds)
    mebibytes, jobs = as_size("mebibytes", mebibytes), as_size("jobs", jobs)
    pairs = [(one, name) for one in submissions(folder) for name in exercises]

    def work(numbered: tuple[int, tuple[Submission, str]]) -> Row:
        number, (one, name) = numbered
        if progress is not None:
            progress(f"{number} of {len(pairs)} {name} of {one.student}")
        return _row(one, name, seconds, mebibytes)

    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(work, enumerate(pairs, start=1)))
    finally:
        pool.shutdown(cancel_futures=True)


def _row(submission: Submission, exercise: str, seconds: float, mebibytes: int) -> Row:
    of = POINTS[exercise]
    files = submission.answers(exercise)
    if not files:
        return Row(submission.student, exercise, False, 0.0, of, "No answer.")
    grades = [apart.grade(exercise, one, seconds, mebibytes) for one in files]
    best = max(range(len(files)), key=lambda i: grades[i].share)  # the first of the best
    hint = grades[best].hint + (f" (the best of {len(files)} files: {files[best].name})" if len(files) > 1 else "")
    return Row(submission.student, exercise, grades[best].passed, round(of * grades[best].share, 1), of, hint)


def totals(rows: Iterable[Row]) -> dict[str, tuple[float, int]]:
    """Sum up the points of each student: the points, and the most possible."""
    found: dict[str, tuple[float, int]] = {}
    for row in rows:
        points, of = found.get(row.student, (0.0, 0))
        found[row.student] = (points + row.points, of + row.of)
    return found


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write one line per row under the names of the columns; each hint is one line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        hint = _cell(" ".join(row.hint.split()))
        writer.writerow((_cell(row.student), row.exercise, row.passed, f"{row.points:g}", row.of, hint))
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def as_json(rows: Iterable[Row]) -> dict[str, Any]:
    """The rows and the totals, for a JSON file."""
    rows = list(rows)
    return {
        "rows": [asdict(row) for row in rows],
        "totals": {student: {"points": points, "of": of} for student, (points, of) in totals(rows).items()},
    }


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
