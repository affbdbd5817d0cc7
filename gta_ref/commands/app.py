"""The command gta-ref with all its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from gta_ref import __version__
from gta_ref.commands import (
    bench,
    convert,
    costs,
    course,
    doctor,
    generate,
    grade,
    heal,
    maps,
    study,
    tour,
    train,
    vectors,
    verify,
)

app = typer.Typer(
    help="The reference implementation of GTA, Grouped-head latenT Attention (arXiv 2506.17286).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gta_ref {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version of the package and exit."
        ),
    ] = False,
) -> None:
    """The options of the command itself."""


app.command()(tour.tour)
app.add_typer(costs.app, name="costs")
app.command()(generate.generate)
app.command()(maps.maps)
app.command()(convert.convert)
app.command()(heal.heal)
app.command()(train.train)
app.command()(study.study)
app.add_typer(bench.app, name="bench")
app.command()(verify.verify)
app.add_typer(vectors.app, name="vectors")
app.command()(course.course)
app.command()(grade.grade)
app.command()(doctor.doctor)
