"""gta-ref bench: the speed of the attention core, compared with PyTorch and with the limits of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gta_ref.commands import bench_distributed, bench_e2e, bench_gpu, bench_lm
from gta_ref.commands.common import JsonOption, PlotOption, check_torch, machine_line, one_line_errors, table

app = typer.Typer(
    help="Measure speed and memory on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def options() -> None:
    """Measure speed and memory on this machine."""


app.command("gpu")(bench_gpu.gpu)
app.command("lm")(bench_lm.lm)
app.command("e2e")(bench_e2e.e2e)
app.command("distributed")(bench_distributed.distributed)


@app.command()
@one_line_errors
def core(
    against: Annotated[str | None, typer.Option(help="A library to compare with; the only one is torch.")] = None,
    plot: PlotOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure few shapes in few rounds, only to see that the benchmark runs.")
    ] = False,
    goals: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with goals. The run is judged against them, and a table shows which were reached. "
            "Default: judge nothing."
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Time each engine of the attention core.

    The cases are a forward, a forward with its backward, and a decoding step. A missed goal does not change the exit
    status; a wrong result does.
    """
    check_torch(against)
    from gta_ref.bench import core as benchmark
    from gta_ref.bench.goals import judge, read
    from gta_ref.files import write_json

    names = {case.name for quickly in (False, True) for case in benchmark.cases(quickly)}
    wanted = [] if goals is None else read(goals, names)
    console = Console()
    with console.status("") as status:
        found = benchmark.run(against == "torch", quick, lambda name: status.update(f"measuring: {name}"))
    _show_machine(console, found["machine"])
    _show_cases(console, found["cases"])
    if found["avx2"]:
        console.print("\nvectors of 32 bytes, as on a CPU with AVX2:", highlight=False)
        _show_cases(console, found["avx2"])
    threads = found["threads"]
    console.print(
        f"\nspeed-up of {found['machine']['threads']} threads over one: forward {threads['forward']:.2f} ×, "
        f"multiply–adds {threads['fma']:.2f} ×\n",
        highlight=False,
    )
    found["goals"] = judge(found, wanted)
    if wanted:
        _show_goals(console, found["goals"])
    if json is not None:
        write_json(json, found)
    if plot is not None:
        from gta_ref.plots.common import save
        from gta_ref.plots.speed import core_speed

        save(core_speed(found["cases"], machine_line(found["machine"])), plot)
    wrong = [(case["name"], name) for case in found["cases"] for name, c in case["contestants"].items() if c["wrong"]]
    for case, name in wrong:
        console.print(f"[red]{case}: {name} is wrong by more than rounding and was not timed[/]")
    if wrong:
        raise typer.Exit(1)


def _show_machine(console: Console, machine: dict[str, Any]) -> None:
    console.print(machine_line(machine), highlight=False)
    for blas in machine["blas"]:
        console.print(
            f"BLAS of {blas['of']}: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}",
            highlight=False,
        )
    console.print(
        "In float32, unless the name says bfloat16. The contestants take turns. Times are medians over the rounds,\n"
        "and least is the shortest; with one thread they are CPU time. Rates count useful operations only (visible\n"
        "pairs of a query and a key). best: least time against the highest ceiling. ÷ numba: time over that of numba.\n"
        "error: largest difference from float64 over the largest value.\n",
        highlight=False,
    )


def _show_cases(console: Console, cases: list[dict[str, Any]]) -> None:
    rows = table("", "ms", "least", "rate", "of ceiling", "best", "÷ numba", "error", numbers_from=1)
    for case in cases:
        decoding = case["kind"] == "decode"
        limit, unit, ceiling = ("read", "GB/s", case["read"]) if decoding else ("multiply–adds", "GFLOP/s", case["fma"])
        if "products" in case:
            limit, ceiling = "multiply–adds of the matrix unit", case["products"]
        rows.add_row(f"[bold]{case['name']}[/]")
        rows.add_row(f"  [dim]{limit}[/]", "", "", f"[dim]{ceiling / 1e9:.0f} {unit}[/]")
        for name, c in case["contestants"].items():
            if c["wrong"]:
                rows.add_row(f"  {name}", "[red]wrong[/]", "", "", "", "", "", f"{c['error']:.0e}")
                continue
            rows.add_row(
                f"  {name}",
                f"{c['seconds'] * 1e3:.2f}",
                f"{c['least'] * 1e3:.2f}",
                f"{c['rate'] / 1e9:.1f} {unit}",
                f"{c['of_ceiling']:.0%}",
                f"{c['best_of_ceiling']:.0%}",
                f"{c['times_numba']:.2f}",
                f"{c['error']:.0e}",
            )
    console.print(rows)


def _show_goals(console: Console, verdicts: list[dict[str, Any]]) -> None:
    from gta_ref.bench.goals import FIGURES

    rows = table("goal", "wanted", "got", "", numbers_from=1)
    for column in rows.columns:
        column.no_wrap = True
    for verdict in verdicts:
        figure = FIGURES[verdict["figure"]]
        show = "{:.0%}".format if figure.unit == "%" else "{:.2f} ×".format
        wanted = f"≥ {show(verdict['least'])}" if "least" in verdict else f"≤ {show(verdict['most'])}"
        reached = "[green]reached[/]" if verdict["reached"] else "[yellow]not reached[/]"
        rows.add_row(f"{verdict['case']}: {figure.words}", wanted, show(verdict["got"]), reached)
    console.print(rows)
