"""The command ``gta-ref bench gpu``, which ``gta_ref.commands.bench`` adds to its group."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, check_torch, one_line_errors, table


@one_line_errors
def gpu(
    against: Annotated[
        str | None, typer.Option(help="A library to compare with; the only one is torch, with each of its back ends.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure the smallest shapes, only to see that the benchmark runs.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Time the engine "cuda" on this machine's GPU."""
    check_torch(against)
    from gta_ref.bench import gpu as benchmark
    from gta_ref.files import write_json

    console = Console()
    try:
        with console.status("") as status:
            found = benchmark.run(against == "torch", quick, lambda name: status.update(f"measuring: {name}"))
    except RuntimeError as wrong:
        console.print(f"[red]{escape(str(wrong))}[/]")
        raise typer.Exit(1) from None
    show(console, found)
    if json is not None:
        write_json(json, found)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the results."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number is not None)
    ceilings = found["ceilings"]
    console.print(f"{found['device']}, driver {found['driver']}, {versions}", highlight=False)
    console.print(
        f"copy {ceilings['copy'] / 1e9:,.0f} GB/s, bfloat16 product {ceilings['product'] / 1e12:,.0f} TFLOP/s; medians",
        highlight=False,
    )
    rows = table("", "ms", "rate", "of ceiling", "error", numbers_from=1)
    for case in found["cases"]:
        rows.add_row(f"[bold]{case['name']}[/]", "", "", "", f"{case['error']:.0e}")
        unit, factor = ("GB/s", 1e9) if case["kind"] == "decode" else ("TFLOP/s", 1e12)
        for name, one in case["contestants"].items():
            if "why_not" in one:
                rows.add_row(f"  {name}", "", escape(one["why_not"]))
                continue
            share = f"{one['of_ceiling']:.0%}" if "of_ceiling" in one else ""
            rows.add_row(f"  {name}", f"{one['seconds'] * 1e3:.3f}", f"{one['rate'] / factor:,.1f} {unit}", share)
    console.print(rows)
