"""The command gta-ref. Exit status: 0 all well, 1 a check failed, 2 wrong usage."""

from __future__ import annotations

import os

import typer

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
    # OpenBLAS reads it when NumPy is imported. After a product its threads look for more work, for 0.1 s by default,
    # on the cores that the fused engine's threads need then: docs/kernels.md has what that costs.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")  # 2^20 cycles, below a millisecond
    app()


if __name__ == "__main__":
    main()
