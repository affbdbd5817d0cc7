"""gta-ref study: a small set of training runs with equal budgets, and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import JsonOption, PlotOption, one_line_errors, table


@one_line_errors
def study(
    name: Annotated[str, typer.Argument(help="The study: mechanisms, gate, activations, sizes, retrieval or convert.")],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the files of the runs; finished runs found there are kept.")
    ] = Path("gta-studies"),
    jobs: Annotated[int, typer.Option(help="Number of runs that are trained at the same time.", min=1)] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train two steps from two seeds, only to see that the study runs.")
    ] = False,
    executor: Annotated[
        str,
        typer.Option(
            help="Where the runs are trained: local (processes of this machine) or mpi (the processes that mpiexec has "
            "started, but the first one; they must share the folder)."
        ),
    ] = "local",
    plot: PlotOption = None,
    json: JsonOption = None,
) -> None:
    """Train the models of a study and compare them.

    Each model is trained from three seeds. A study that was stopped continues where it was if it is started again. The
    full studies take from one to several hours on two cores; docs/studies.md has their results.

    The study convert trains no model from random weights: it converts SmolLM2 to GTA in many sizes and heals what came
    out (see gta-ref convert and gta-ref heal), one model at a time on all cores. docs/convert.md has its results.
    """
    from gta_ref.errors import check_choice
    from gta_ref.lab import runner, studies

    check_choice("study", name, (*studies.STUDIES, "convert"))
    check_choice("executor", executor, runner.EXECUTORS)
    if name == "convert":
        from gta_ref.commands.study_convert import study_convert

        if executor != "local":
            raise ValueError(f"executor={executor!r} must be 'local' in the study convert")
        study_convert(folder, quick, plot, json)
        return
    if executor == "local":
        _study(name, folder, jobs, quick, plot, json, executor, first=True)
        return
    from gta_ref.distributed.launch import together

    with together() as comm:
        _study(name, folder, jobs, quick, plot, json, executor, first=comm.Get_rank() == 0)


def _study(
    name: str,
    folder: Path,
    jobs: int,
    quick: bool,
    plot: Path | None,
    json: Path | None,
    executor: str,
    *,
    first: bool,
) -> None:
    """Carry out a study; only the first process prints and writes what was found."""
    from gta_ref.files import write_json
    from gta_ref.lab import runner, studies, summary

    chosen = studies.load(name)
    if quick:
        chosen = studies.quick(chosen)
    console = Console(quiet=not first)
    console.print(f"[bold]{chosen.question}[/]", highlight=False)
    budget = chosen.settings
    console.print(
        f"{len(chosen.arms)} models from {len(chosen.seeds)} seeds each; {budget.steps} steps of "
        f"{budget.batch} × {budget.length} tokens; the runs' files are in {folder}",
        highlight=False,
        markup=False,
    )
    results = _run(console, runner, chosen, folder, jobs, executor)
    if not first:
        return
    found = summary.summarise(chosen, results)
    parameters = [arm["parameters"] for arm in found["arms"].values()]
    console.print(f"{min(parameters):,} to {max(parameters):,} parameters; cache: elements per token and layer\n")
    for content in (summary.loss_rows(found), summary.measured_rows(found)):
        if content:
            header, *lines = content
            rows = table(*header, numbers_from=1)
            for line in lines:
                rows.add_row(*line)
            console.print(rows)
    if json is not None:
        write_json(json, found)
    if plot is not None:
        from gta_ref.plots import studies as drawn
        from gta_ref.plots.common import save

        save(drawn.study(found), plot)


def _run(console: Console, runner: Any, chosen: Any, folder: Path, jobs: int, executor: str) -> Any:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(label: str, step: int, loss: float) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task("", total=chosen.settings.steps)
            bar.update(tasks[label], completed=step, description=f"{label}: loss {loss:.3f}")
            if step == chosen.settings.steps:
                bar.update(tasks[label], visible=False)

        try:
            return runner.run(chosen, folder, jobs, tell, executor)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues where it was") from None
