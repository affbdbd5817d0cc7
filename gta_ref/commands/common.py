"""What the commands share: one-line errors, tables, the option --json."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write all figures to this file.")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an expected error into one line on stderr and exit status 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            # an OSError's own text has an errno in front
            message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
            print(f"gta-ref: {message}", file=sys.stderr)
            raise typer.Exit(2) from None

    return wrapped


def table(*columns: str, numbers_from: int | None = None) -> Table:
    """An unruled table; columns from `numbers_from` on are aligned to the right."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        found.add_column(column, justify="right" if numbers_from is not None and i >= numbers_from else "left")
    return found
