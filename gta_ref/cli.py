"""The command gta-ref. Exit status: 0 all well, 1 a check failed, 2 wrong usage."""

from __future__ import annotations

import typer

from gta_ref import process
from gta_ref.commands import bench, costs, doctor, generate, maps, study, tour, train, vectors, verify

app = typer.Typer(
    help="GTA, Grouped-head latenT Attention (arXiv 2506.17286): the reference implementation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(tour.tour)
app.add_typer(costs.app, name="costs")
app.command()(generate.generate)
app.command()(maps.maps)
app.command()(train.train)
app.command()(study.study)
app.add_typer(bench.app, name="bench")
app.command()(verify.verify)
app.add_typer(vectors.app, name="vectors")
app.command()(doctor.doctor)


def main() -> None:
    """Entry point."""
    process.set_up()
    app()


if __name__ == "__main__":
    main()
