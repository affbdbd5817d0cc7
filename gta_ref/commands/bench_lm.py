"""gta-ref bench lm: the training speed of the small language models."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from gta_ref.commands.common import JsonOption, check_torch, machine_line, one_line_errors, table


@one_line_errors
def lm(
    against: Annotated[
        str | None, typer.Option(help="A library to train the same models with; the only one is torch.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure few rounds, only to see that the benchmark runs.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Time training steps of small language models.

    There is one model per mechanism; a step is forward, backward, clipping and AdamW.
    """
    check_torch(against)
    from gta_ref.bench import lm as benchmark
    from gta_ref.files import write_json

    console = Console()
    with console.status("") as status:
        found = benchmark.run(against == "torch", quick, lambda name: status.update(f"measuring: {name}"))
    console.print(machine_line(found["machine"]), highlight=False)
    console.print(
        f"One step: forward, backward, clipping and AdamW in float32 on {found['batch']} × {found['length']} tokens.\n"
        "The contestants take turns; times are medians. ÷ numba: time over the time of numba.\n",
        highlight=False,
    )
    rows = table("", "ms per step", "tokens/s", "÷ numba", "÷ GQA", numbers_from=1)
    for name, measured in found["models"].items():
        for contestant, c in measured["contestants"].items():
            own = contestant == "numba"
            rows.add_row(
                f"[bold]{name}[/]" if own else f"  {contestant}",
                f"{c['seconds'] * 1e3:.0f}",
                f"{c['tokens_per_second']:,.0f}",
                "" if own else f"{c['times_numba']:.2f}",
                f"{measured['times_gqa']:.2f}" if own else "",
            )
    console.print(rows)
    errors = {name: m["error"] for name, m in found["models"].items() if m["error"] is not None}
    if errors:
        text = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
        console.print(
            f"\nLargest difference between our gradients and PyTorch's, over the largest value: {text}", highlight=False
        )
    if json is not None:
        write_json(json, found)
    if wrong := [name for name, error in errors.items() if not error <= benchmark.ALLOWED]:
        console.print(f"[red]{', '.join(wrong)}: the gradients differ by more than rounding; PyTorch was not timed[/]")
        raise typer.Exit(1)
