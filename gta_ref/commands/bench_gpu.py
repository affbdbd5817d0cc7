"""The command ``gta-ref bench gpu``, which ``gta_ref.commands.bench`` adds to its group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import check_output, check_torch, one_line_errors, table


@one_line_errors
def gpu(
    against: Annotated[
        str | None,
        typer.Option(
            help="A library to compare with. The only one is torch, with each back end of its attention. Default: none."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Measure the smallest shapes in few rounds, only to see that the benchmark runs."),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="A time budget in seconds. When it is used up, no further shape is measured; the most informative "
            "shapes come first. Default: no limit.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Append every finding to this file as soon as it is known, in the format JSON lines: each line is an "
            "object. Default: write no file.",
            callback=check_output,
        ),
    ] = None,
) -> None:
    """Check and time the engine "cuda" on this machine's GPU.

    The results are compared with float64, then two times are taken: that of a call from Python, and that of its
    kernels alone. A failure does not end the run. The exit status is 1 if the engine fails or its results are wrong.
    """
    check_torch(against)
    from gta_ref.bench import gpu as benchmark

    console = Console()
    with benchmark.json_lines(json) as record, console.status("") as status:

        def progress(name: str) -> None:
            status.update(f"measuring: {escape(name)}")

        found = benchmark.run(against == "torch", quick, progress, record=record, seconds=seconds)
    show(console, found)
    faults = list(benchmark.faults(found))
    for fault in faults:
        console.print(f"[red]{escape(fault)}[/]", highlight=False)
    if faults:
        raise typer.Exit(1)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the results."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number is not None)
    console.print(f"{found['device']}, driver {found['driver']}, {versions}", highlight=False, markup=False)
    for name, unit, factor in (("copy", "GB/s", 1e9), ("product", "TFLOP/s in bfloat16", 1e12)):
        one = found["ceilings"][name]
        text = one["why_not"] if "why_not" in one else f"{one['rate'] / factor:,.0f} {unit}"
        console.print(f"{name}: {text}", highlight=False, markup=False)
    console.print("Times are medians. Rates are those of the kernels alone if they could be timed.", highlight=False)
    rows = table("", "ms, call", "ms, kernels", "rate", "of ceiling", "error", numbers_from=1)
    for case in found["cases"]:
        rows.add_row(f"[bold]{case['name']}[/]")
        for name, stages in case["contestants"].items():
            rows.add_row(f"  {name}", *_times(case["kind"], stages), _error(stages["check"]))
            for stage, one in stages.items():
                if "why_not" in one:
                    rows.add_row(f"    {stage}: {escape(one['why_not'])}")
    console.print(rows)
    if found["left_out"]:
        console.print(f"left out for lack of time: {'; '.join(dict.fromkeys(found['left_out']))}", highlight=False)


def _times(kind: str, stages: dict[str, Any]) -> list[str]:
    """Both times, the rate and its share of the ceiling, as far as they are known."""
    host, kernel = (stages.get(stage, {}) for stage in ("host", "kernel"))
    times = [f"{one['seconds'] * 1e3:.3f}" if "seconds" in one else "" for one in (host, kernel)]
    best = kernel if "rate" in kernel else host
    unit, factor = ("GB/s", 1e9) if kind == "decode" else ("TFLOP/s", 1e12)
    rate = f"{best['rate'] / factor:,.1f} {unit}" if "rate" in best else ""
    share = f"{best['of_ceiling']:.0%}" if "of_ceiling" in best else ""
    return [*times, rate, share]


def _error(check: dict[str, Any]) -> str:
    """The largest error of a check; if it is too large, with the result's name and what is allowed."""
    if "why_not" in check:
        return ""
    for name, elements in check["not_finite"].items():
        if elements:
            return f"[red]{name} has {elements:,} NaN or ∞[/]"
    name = max(check["errors"], key=lambda name: check["errors"][name] / check["allowed"][name])
    error = f"{check['errors'][name]:.0e}"
    return f"[red]{name} {error} > {check['allowed'][name]:.0e}[/]" if check["wrong"] else error
