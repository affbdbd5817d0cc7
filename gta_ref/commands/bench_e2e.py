"""The command ``gta-ref bench e2e``, which ``gta_ref.commands.bench`` adds to its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, PlotOption, machine_line, one_line_errors, table

BUSY = 0.5  # a load average above this before the run means that another program is using the machine
# parts that the tables and the figure show as one
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
    layers: Annotated[
        int | None, typer.Option(help="Largest number of layers to run. Default: as many as fit.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of the prompt in the prefill. Default: 2048.")] = None,
    contexts: Annotated[
        str | None,
        typer.Option(help="Tokens in the cache before each decoding step, by commas. Default: 2048,8192,32768."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(help="Sequences that are decoded at once, by commas. Default: 1,16."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="Memory to use, in GB. Default: 40 % of the available memory.")
    ] = None,
    plot: PlotOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run tiny models with short contexts, only to see that the benchmark runs.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Time the whole models GTA-1B and GQA-1B.

    Prefill and decoding run with random weights. The times are compared with what the cost model predicts for this
    machine.
    """
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
        write_json(json, found | {"groups": SHOWN})  # the parts that the figure shows as one
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
        raise ValueError(f"{name}={text!r} must be whole numbers separated by commas") from None


def _title(setting: Mapping[str, Any]) -> str:
    tiny = "tiny models for " if setting["quick"] else ""
    return f"{tiny}GTA-1B and GQA-1B, {setting['depth']} layers"


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the results: total times, then times by part, then the causes of differences from the prediction."""
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
        f"decoding and prefill agree with a float64 forward to {error:.0e} of the largest logit\n",
        highlight=False,
    )
    if setting["load"] is not None and setting["load"] > BUSY:
        console.print(f"[yellow]the machine was busy before the run (load {setting['load']:.1f}): times are high[/]\n")
    timed = [case for case in found["cases"] if "models" in case]
    _show_totals(console, timed)
    _show_parts(console, timed)
    _show_causes(console, timed)
    calls = ", ".join(f"{name} {_ms(taken)} ms" for name, taken in found["calls"].items())
    console.print(
        f"Python and NumPy calls alone, which are part of the times above, take at least {calls} per step.",
        highlight=False,
    )
    twice = [case["name"] for case in timed if case["ratio"]["median"] >= 2]
    where = "in none of these cases" if not twice else "in: " + "; ".join(twice)
    console.print(f"GTA-1B takes half of GQA-1B's time or less {where}.", highlight=False)
    for case in found["cases"]:
        if "left_out" in case:
            console.print(f"{case['name']}: left out, {case['left_out']}", highlight=False)


def _show_totals(console: Console, cases: Sequence[Mapping[str, Any]]) -> None:
    rows = table(
        "ms for all layers", "layers run", "measured", "least–most", "predicted", "÷ predicted", numbers_from=1
    )
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
        "BLAS: the same matrix products, timed alone, minus their prediction. Not explained: time in Python, and the "
        "extra time that the products take inside the model compared with alone.",
        highlight=False,
    )


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if abs(ms) >= 1000 else f"{ms:.1f}"
