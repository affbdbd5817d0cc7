"""gta-ref grade: grade the exercises of a whole class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, check_output, one_line_errors, table


@one_line_errors
def grade(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with a folder, or a file, for each student.")],
    csv: Annotated[
        Path, typer.Option("--csv", help="Where to write the grades, a line for each exercise.", callback=check_output)
    ],
    exercises: Annotated[
        str, typer.Option("--exercises", help="Only these, such as ex01,ex03. Default: all thirteen.")
    ] = "",
    seconds: Annotated[float, typer.Option("--seconds", help="The most time for one answer.")] = 120.0,
    memory: Annotated[int, typer.Option("--memory", help="The most memory for one answer, in MiB (Linux).")] = 4096,
    jobs: Annotated[
        int, typer.Option("--jobs", help="How many answers run at a time. Default: half the number of cores.")
    ] = max(1, (os.cpu_count() or 1) // 2),
    json: JsonOption = None,
) -> None:
    """Grade the exercises of a class.

    Each answer runs in a fresh process with limits on its time and memory. An exercise is worth as many points as its
    level, from 1 to 4, and exercise 13 as many as all the others together, in parts for what is right.
    """
    from gta_ref.commands.verify_output import progress
    from gta_ref.course import grading
    from gta_ref.course.points import POINTS
    from gta_ref.files import write_json

    names = [name.strip() for name in exercises.split(",") if name.strip()] or list(POINTS)
    with progress() as say:
        rows = grading.grade(folder, names, seconds, memory, jobs, say)
    grading.write_csv(csv, rows)
    if json is not None:
        write_json(json, grading.as_json(rows))
    console = Console()
    shown = table("student", "passed", "points", "of", numbers_from=1)
    for student, (points, of) in grading.totals(rows).items():
        passed = sum(row.passed for row in rows if row.student == student)
        shown.add_row(escape(student), str(passed), f"{points:g}", str(of))
    console.print(shown)
