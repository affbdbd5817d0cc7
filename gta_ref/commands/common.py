"""Helpers that the commands share: errors of one line, tables, and the options --json and --model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from gta_ref import process
from gta_ref.errors import printable


def check_output(context: typer.Context, path: Path | None) -> Path | None:
    """End the command with one line and exit status 2 if the file of an option cannot be written; before any work."""
    if path is not None and not context.resilient_parsing:  # which is completion in a shell
        from gta_ref.files import check_writable

        try:
            check_writable(path)
        except OSError as error:
            _complain(error)
            raise typer.Exit(2) from None
    return path


JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write every number to this JSON file.", callback=check_output)
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Image file for the figure. Default: draw none.", callback=check_output)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="The language model: smollm2 (SmolLM2-135M), another GGUF file with Llama's architecture and SmolLM's "
        "kind of tokenizer, or a .safetensors file written by gta-ref train or gta-ref convert.",
    ),
]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an expected error, or a wrong setting of the environment, into one line on stderr and exit status 2.

    Ctrl-C becomes a line too, with exit status 130. A command that has more to say about it raises KeyboardInterrupt
    with a text.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with process.interruptible():
                from gta_ref import threads  # imports NumPy, which --help does not need

                threads.check_environment()
                command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            print(f"gta-ref: {interrupt}" if interrupt.args else process.STOPPED, file=sys.stderr)
            raise typer.Exit(process.INTERRUPTED) from None
        except (ValueError, OSError) as error:
            _complain(error)
            raise typer.Exit(2) from None

    return wrapped


def _complain(error: ValueError | OSError) -> None:
    # the text of an OSError itself begins with its errno
    message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
    print(f"gta-ref: {printable(str(message))}", file=sys.stderr)


def check_torch(against: str | None) -> None:
    """Raise ValueError if the option --against is given and is not torch, or if PyTorch is not installed."""
    if against not in (None, "torch"):
        raise ValueError(f"against={against!r} must be torch")
    if against == "torch" and importlib.util.find_spec("torch") is None:
        raise ValueError("against='torch' needs PyTorch, which is not installed: pip install --group bench")


def machine_line(machine: dict[str, Any]) -> str:
    """The findings of :func:`gta_ref.bench.machine.describe` as one line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"{machine['cpu']}, {machine['threads']} threads, Python {machine['python']}, {packages}"


def table(*columns: str, numbers_from: int | None = None) -> Table:
    """A table without rules; the columns from index `numbers_from` onwards are aligned to the right.

    A header may look like markup. A cell may be markup.
    """
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        found.add_column(escape(column), justify="right" if numbers_from is not None and i >= numbers_from else "left")
    return found
