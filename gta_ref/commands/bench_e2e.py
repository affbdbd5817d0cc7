"""The command ``gta-ref bench e2e``; mounted in ``gta_ref.commands.bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, machine_line, one_line_errors, table

BUSY = 0.5  # load of the machine before the run, from which on somebody else has to be reckoned with
# the parts that tables and figure show as one
SHOWN: dict[str, tuple[str, ...]] = {
    "projections": ("projections",),
    "gate and decoder": ("gate", "decoder"),
    "MLP": ("mlp",),
    "head": ("head",),
    "attention": ("attention",),
    "elementwise": ("norm", "rope", "gate activation", "swiglu", "residual", "embedding"),
    "copies, Python": ("copies", "between"),
}


@one_line_errors
def e2e(
    layers: Annotated[int | None, typer.Option(help="At most so many layers; else what the memory allows.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of the prefill; 2048.")] = None,
    contexts: Annotated[str | None, typer.Option(help="Tokens in the cache: 2048,8192,32768.")] = None,
    batches: Annotated[str | None, typer.Option(help="Sequences in decoding: 1,16.")] = None,
    memory: Annotated[float | None, typer.Option(help="GB to use; else 40 % of what is available.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figure into this file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: to see that it works.")] = False,
    json: JsonOption = None,
) -> None:
    """Time GTA-1B against GQA-1B, prefill and decoding, beside what the cost model predicts for this machine."""
    from gta_ref.bench import e2e as benchmark
    from gta_ref.files import write_json

    console = Console()
    try:
        with console.status("") as status:
            found = benchmark.run(
                layers=layers,
                length=length,
                contexts=_whole_numbers("contexts", contexts),
                batches=_whole_numbers("batches", batches),
                memory=memory,
                quick=quick,
                progress=lambda name: status.update(f"measuring: {name}"),
            )
    except RuntimeError as wrong:
        console.print(f"[red]{escape(str(wrong))}[/]")
        raise typer.Exit(1) from None
    show(console, found)
    if json is not None:
        write_json(json, found)
    timed = [case for case in found["cases"] if "models" in case]
    if plot is not None:
        from gta_ref.plots.common import save
        from gta_ref.plots.e2e import pass_times

        title = f"{_title(found['setting'])}, float32\n{machine_line(found['machine'])}"
        save(pass_times(timed, SHOWN, title), plot)


def _whole_numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}={text!r} must be whole numbers with commas between them") from None


def _title(setting: Mapping[str, Any]) -> str:
    tiny = "tiny models for " if setting["quick"] else ""
    return f"{tiny}GTA-1B and GQA-1B, {setting['depth']} layers"


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the figures: totals, then parts, then causes."""
    setting = found["setting"]
    console.print(machine_line(found["machine"]), highlight=False)
    for blas in found["machine"]["blas"]:
        console.print(
            f"BLAS of {blas['of']}: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}",
            highlight=False,
        )
    error = max(found["errors"].values())
    console.print(
        f"{_title(setting)}; float32, {setting['weights'] / 1e9:.2f} GB of weights\n"
        f"decoding and prefill are a forward in float64 to {error:.0e}\n",
        highlight=False,
    )
    if setting["load"] is not None and setting["load"] > BUSY:
        console.print(f"[yellow]other work runs here (load {setting['load']:.1f}): the times contain it[/]\n")
    timed = [case for case in found["cases"] if "models" in case]
    _show_totals(console, timed)
    _show_parts(console, timed)
    _show_causes(console, timed)
    calls = ", ".join(f"{name} {_ms(taken)} ms" for name, taken in found["calls"].items())
    console.print(
        f"The calls of a step without any work, which elementwise, attention and the rest contain: at least {calls}.",
        highlight=False,
    )
    twice = [case["name"] for case in timed if case["ratio"]["median"] >= 2]
    where = "in none of these cases" if not twice else "in: " + "; ".join(twice)
    console.print(f"GTA-1B takes half of GQA-1B's time or less {where}.", highlight=False)
    for case in found["cases"]:
        if "left_out" in case:
            console.print(f"{case['name']}: left out, {case['left_out']}", highlight=False)


def _show_totals(console: Console, cases: Sequence[Mapping[str, Any]]) -> None:
    rows = table("ms for all layers", "ran", "measured", "least–most", "predicted", "times", numbers_from=1)
    for case in cases:
        rows.add_row(f"[bold]{case['name']}[/]", f"{case['layers']}")
        ceilings = f"{case['gemm'] / 1e9:.0f} GFLOP/s, {case['read'] / 1e9:.0f} GB/s"
        for name, one in case["models"].items():
            expected = sum(one["predicted"].values())
            spread = f"{_ms(one['least'])}–{_ms(one['most'])}"
            rows.add_row(
                f"  {name}", "", _ms(one["seconds"]), spread, _ms(expected), f"{one['seconds'] / expected:.2f}"
            )
        ratio = case["ratio"]
        spread = f"{ratio['least']:.2f}–{ratio['most']:.2f}"
        rows.add_row("  gqa ÷ gta", "", f"[bold]{ratio['median']:.2f}[/]", spread, f"{case['ratio_predicted']:.2f}")
        rows.add_row(f"  [dim]{ceilings}[/]")
    console.print(rows)


def _show_parts(console: Console, cases: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{name[:3].upper()} {kind}" for name in cases[0]["models"] for kind in ("predicted", "measured")]
    rows = table("\nparts, ms", *(name.replace(" ", "\n") for name in names), numbers_from=1)
    for case in cases:
        rows.add_row(f"[bold]{case['name']}[/]")
        columns = [one[kind] for one in case["models"].values() for kind in ("predicted", "measured")]
        for group, parts in SHOWN.items():
            rows.add_row(f"  {group}", *(_ms(sum(column[part] for part in parts)) for column in columns))
    console.print()
    console.print(rows)


def _show_causes(console: Console, cases: Sequence[Mapping[str, Any]]) -> None:
    rows = table(
        "measured − predicted,\nms",
        "\nall",
        "\nBLAS",
        "element-\nwise",
        "atten-\ntion",
        "\ncopies",
        "not ex-\nplained",
        numbers_from=1,
    )
    for case in cases:
        rows.add_row(f"[bold]{case['name']}[/]")
        for name, one in case["models"].items():
            causes = one["causes"]
            shown = [causes[cause] for cause in ("blas", "elementwise", "attention", "copies")]
            unexplained = causes["around"] + causes["between"]
            rows.add_row(f"  {name}", *(_ms(x) for x in (sum(causes.values()), *shown, unexplained)))
    console.print()
    console.print(rows)
    console.print(
        "BLAS: the same products, timed alone, over their prediction. Not explained: Python, and what the products "
        "take longer inside the model than alone.",
        highlight=False,
    )


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if abs(ms) >= 1000 else f"{ms:.1f}"
