"""gta-ref verify: check an implementation, the files that one has written, or the verification kit itself."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import JsonOption, one_line_errors, table

if TYPE_CHECKING:
    from gta_ref.verify.report import Report

COLOURS = {"pass": "green", "fail": "red", "error": "red", "missing": "yellow", "skip": "dim"}


@one_line_errors
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder of the safetensors files that an implementation has written (its dumps). Or: explain REPORT, "
            "which shows every array of one case (--case) from a report that was written with --json.",
            metavar="[DIR]",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="For dumps: folder that gta-ref vectors export has written. Default: the folder of dumps."),
    ] = None,
    impl: Annotated[str | None, typer.Option(help="A Python implementation to check, as package.module:name.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="For --impl, which cases: core (attention, layer and lm together), attention (the attention core), "
            "layer (attention layers), lm (language models), large (a few large cases), or all."
        ),
    ] = "core",
    dtype: Annotated[
        str,
        typer.Option(
            help="For --impl, the type of the inputs: float64, float32, bfloat16 or float16, or several, separated by "
            "commas."
        ),
    ] = "float32",
    capabilities: Annotated[
        str | None,
        typer.Option(
            help="For --impl, what it supports, separated by commas: attention, layer, lm, backward, decode, padding, "
            "lse, deterministic, dtypes, mechanisms. Cases that need more are skipped. Default: everything."
        ),
    ] = None,
    arrays: Annotated[
        str, typer.Option(help="For --impl, the library of the arrays that it accepts: numpy, torch, jax or cupy.")
    ] = "numpy",
    wanted: Annotated[
        str,
        typer.Option(help="For dumps, the arrays that they must contain: all, or required (outputs and gradients)."),
    ] = "all",
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Check the kit itself with implementations known to be wrong or right.")
    ] = False,
    case: Annotated[str | None, typer.Option(help="For explain, the name of the case.")] = None,
    json: JsonOption = None,
) -> None:
    """Check an implementation and name the first wrong array.

    Exit status: 0 if all is right, 1 if something is wrong, 2 for wrong usage, 3 if only an array is missing.
    """
    console = Console()
    words = what or []
    if words[:1] == ["explain"]:
        _explain(console, words[1:], case)
        return
    if (len(words) == 1) + (impl is not None) + self_test != 1 or len(words) > 1:
        raise ValueError("verify needs one of: a folder of dumps, --impl package.module:name, --self-test")
    if self_test:
        _self_test(console, json)
        return
    from gta_ref.errors import check_choice
    from gta_ref.files import write_json
    from gta_ref.verify.dumps import WANTED, verify_dumps
    from gta_ref.verify.run import load
    from gta_ref.verify.run import verify as run

    check_choice("wanted", wanted, WANTED)
    if impl is None:
        folder = Path(words[0])
        report = verify_dumps(folder, against or folder, wanted)
    else:
        able = None if capabilities is None else [word.strip() for word in capabilities.split(",")]
        with _progress(console) as bar:
            task = bar.add_task("", total=None)
            report = run(
                load(impl), suite, dtype.split(","), able, arrays, lambda name: bar.update(task, description=name)
            )
    _show(console, report)
    if json is not None:
        write_json(json, report.to_dict())
    if report.exit_status:
        raise typer.Exit(report.exit_status)


def _show(console: Console, report: Report) -> None:
    rows = table("case", "dtype", "", "first wrong", "")
    for result in report.results:
        colour = COLOURS[result.status]
        text = escape(result.text) + (f"\n[bold]likely cause: {escape(result.cause)}[/]" if result.cause else "")
        rows.add_row(result.case, result.dtype, f"[{colour}]{result.status}[/]", result.stage or "", text)
    console.print(rows)
    counts = report.counts
    console.print(", ".join(f"{n} {status}" for status, n in counts.items() if n) or "nothing ran", highlight=False)
    for why, n in report.unchecked.items():
        console.print(f"{n} gradients were not checked ({why})", highlight=False)
    if report.blame is not None:
        stage, cause = report.blame
        console.print(
            f"[bold]First wrong array in most cases: {stage}[/]" + (f"; likely cause: {escape(cause)}" if cause else "")
        )


def _explain(console: Console, words: list[str], case: str | None) -> None:
    if len(words) != 1 or case is None:
        raise ValueError("explain needs a report written by --json, and --case NAME")
    try:
        content = json_module.loads(Path(words[0]).read_text(encoding="utf-8"))
        results = [result for result in content["results"] if result["case"] == case]
        names = ", ".join(sorted({result["case"] for result in content["results"]}))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{words[0]}: not a report written by gta-ref verify --json") from None
    if not results:
        raise ValueError(f"case={case!r} is not in {words[0]}; it has {names}")
    for result in results:
        console.print(f"[bold]{result['case']}[/] {result['dtype']}: {result['status']}", highlight=False)
        console.print(f"  {escape(result['text'])}", highlight=False)
        if result["cause"]:
            console.print(f"  likely cause: {escape(result['cause'])}", highlight=False)
        rows = table("array, in the order of computation", "", "error ÷ budget", "")
        rows.columns[2].justify = "right"
        for found in result["findings"]:
            ratio = "" if found["ratio"] is None else f"{found['ratio']:.3g}"
            colour = "green" if found["kind"] == "ok" else "red"
            rows.add_row(
                found["name"],
                f"[{colour}]{found['kind']}[/]",
                ratio,
                "" if found["kind"] == "ok" else escape(found["text"]),
            )
        console.print(rows)


def _self_test(console: Console, json: Path | None) -> None:
    from gta_ref.files import write_json
    from gta_ref.verify.selftest import self_test

    with _progress(console) as bar:
        task = bar.add_task("", total=None)
        found = self_test(lambda name: bar.update(task, description=name))
    rows = table("wrong implementation", "caught", "first wrong array", "recognised as")
    for mutant in found["mutants"].values():
        caught = "[green]yes[/]" if mutant["caught"] else "[red]no[/]"
        stage = str(mutant["stage"]) if mutant["located"] else f"[red]{mutant['stage']}[/]"
        rows.add_row(
            escape(mutant["wrong"]), caught, stage, "itself" if mutant["recognised"] else escape(str(mutant["cause"]))
        )
    console.print(rows)
    right = table("right implementation", "pass", "skip", "false alarms", numbers_from=1)
    for name, counts in found["right"].items():
        alarms = sum(n for status, n in counts.items() if status not in ("pass", "skip"))
        right.add_row(name, str(counts["pass"]), str(counts["skip"]), str(alarms))
    console.print(right)
    console.print(
        f"{found['caught']} of {found['total']} wrong implementations caught, {found['located']} rightly located, "
        f"{found['recognised']} recognised; {found['false_alarms']} false alarms",
        highlight=False,
    )
    if json is not None:
        write_json(json, found)
    if found["caught"] < found["total"] or found["false_alarms"] or found["located"] < 0.95 * found["total"]:
        raise typer.Exit(1)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )
