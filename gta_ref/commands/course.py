"""gta-ref course: write the notebooks, exercises, pages and data of the course into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gta_ref.commands.common import one_line_errors


@one_line_errors
def course(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is created if it does not exist.")],
    solutions: Annotated[bool, typer.Option("--solutions", help="Also write the solutions of the exercises.")] = False,
) -> None:
    """Write the course: notebooks, exercises, pages, figures, data and examples.

    A file that is there already is never replaced. If one differs from the course's, nothing is written.
    """
    from gta_ref.course.write import write

    written = write(folder, solutions)
    print(f"{folder}: {len(written)} files written" if written else f"{folder}: everything is there already")
    print(f"next: python -m jupyterlab {folder / 'notebooks'}")
