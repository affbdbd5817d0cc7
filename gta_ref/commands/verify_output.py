"""What gta-ref verify prints: progress, one line per case, what is wrong, and what was not checked."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import table

if TYPE_CHECKING:
    from gta_ref.verify.report import CaseResult, Report

COLOURS = {"pass": "green", "fail": "red", "error": "red", "missing": "yellow", "skip": "dim"}
EVERY = 5.0  # seconds between two lines of progress, if there is no terminal
_INDENT = " " * 4


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being done: a bar on a terminal, and else a line now and then; on stderr."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda text: bar.update(task, description=escape(text))
        return
    shown = -EVERY

    def line(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= EVERY:
            shown = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield line


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what an implementation prints to stderr, from C too, so that stdout has nothing but the report."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of the two is closed
        saved = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def console_beside(json: Path | None) -> Console:
    """The console for text: stdout, or stderr if the JSON goes to stdout."""
    return Console(stderr=json is not None and str(json) in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))


def show(console: Console, report: Report, tracebacks: bool = False) -> None:
    """Print a report: what passed or was skipped, then what is wrong, then what was not checked."""
    width = max((len(f"{result.case} {result.dtype}") for result in report.results), default=0)
    for wrong in (False, True):
        for result in report.results:
            if (result.status not in ("pass", "skip")) == wrong:
                _case(console, report, result, width, tracebacks)
    counts = report.counts
    _print(console, "")
    text = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "nothing ran"
    _print(console, text + (f"; seed {report.run['seed']}" if "seed" in report.run else ""), style="bold")
    if report.worst_quality is not None:
        ratio, place = report.worst_quality
        text = f"Errors are at most {ratio:.2f} times those of a computation with float32 inside ({place})"
        _paragraph(console, text, first="")
    _blame(console, report)
    left = report.not_checked
    if left:
        _print(console, "Not checked:")
        for line in left:
            _paragraph(console, line, first="  - ")


def _case(console: Console, report: Report, result: CaseResult, width: int, tracebacks: bool) -> None:
    colour, name = COLOURS[result.status], f"{result.case} {result.dtype}".ljust(width)
    start = f"[{colour}]{result.status:8}[/]{name}"
    if result.status in ("pass", "skip"):
        room = console.width - 8 - width - 2
        if len(result.text) <= room or not console.is_terminal:
            _print(console, f"{start}  {escape(result.text)}")
        else:
            _print(console, start)
            _paragraph(console, result.text)
        return
    _print(
        console, f"{start}  first wrong: {result.stage}" if result.stage and result.status == "fail" else start.rstrip()
    )
    _paragraph(console, result.text)
    if result.cause:
        _paragraph(console, f"likely cause: {result.cause}", style="bold")
    repro = report.repro(result)
    if repro is not None:
        _print(console, f"{_INDENT}repro: {escape(repro)}")  # in one line, however long, so that it can be copied
    if tracebacks and result.traceback:
        for line in result.traceback.rstrip().splitlines():
            _print(console, f"{_INDENT}{escape(line)}", style="dim")


def _blame(console: Console, report: Report) -> None:
    blame = report.blame
    if blame is None:
        return
    text = f"First wrong array in most cases: {blame.stage}"
    if blame.cause:
        text += f"; likely cause: {blame.cause} (explains {blame.explains} of {blame.of} cases)"
    _paragraph(console, text, first="", style="bold")


def _paragraph(console: Console, text: str, first: str = _INDENT, style: str | None = None) -> None:
    """Print text with an indent; on a terminal wrapped between words, and else in one line, for grep."""
    after = " " * len(first)
    lines = [first + text]
    if console.is_terminal:
        lines = wrap(text, console.width, initial_indent=first, subsequent_indent=after, break_long_words=False)
    for line in lines:
        _print(console, escape(line), style)


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, soft_wrap=True)


def explain(console: Console, results: list[dict[str, Any]]) -> None:
    """Print every array of the results of one case, as they are in a report's JSON."""
    for result in results:
        console.print(f"[bold]{escape(result['case'])}[/] {result['dtype']}: {result['status']}", highlight=False)
        console.print(f"  {escape(result['text'])}", highlight=False)
        if result["cause"]:
            console.print(f"  likely cause: {escape(result['cause'])}", highlight=False)
        rows = table("array, in the order of computation", "", "error ÷ budget", "")
        rows.columns[2].justify = "right"
        for found in result["findings"]:
            ratio = "" if found["ratio"] is None else f"{found['ratio']:.3g}"
            fine = found["kind"] == "ok"
            text = "" if fine else escape(found["text"])
            rows.add_row(found["name"], f"[{'green' if fine else 'red'}]{found['kind']}[/]", ratio, text)
        console.print(rows)
        for line in (result.get("traceback") or "").rstrip().splitlines():
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def show_self_test(console: Console, found: dict[str, Any]) -> None:
    """Print what the self-test found: its wrong implementations, its right ones, and the totals."""
    rows = table("wrong implementation", "caught", "first wrong array", "recognised as")
    for mutant in found["mutants"].values():
        caught = "[green]yes[/]" if mutant["caught"] else "[red]no[/]"
        stage = str(mutant["stage"]) if mutant["located"] else f"[red]{mutant['stage']}[/]"
        named = "itself" if mutant["recognised"] else escape(str(mutant["cause"] or "no known cause"))
        rows.add_row(escape(mutant["wrong"]), caught, stage, f"[red]{named}[/]" if mutant["misled"] else named)
    console.print(rows)
    right = table("right implementation", "pass", "skip", "false alarms", numbers_from=1)
    for name, counts in found["right"].items():
        alarms = sum(n for status, n in counts.items() if status not in ("pass", "skip"))
        right.add_row(escape(name), str(counts["pass"]), str(counts["skip"]), str(alarms))
    console.print(right)
    for alarm in found["alarms"]:
        _paragraph(console, alarm, style="red")
    total = found["total"]
    _paragraph(
        console,
        f"{found['caught']} of {total} wrong implementations caught, {found['located']} rightly located, "
        f"{found['recognised']} recognised, {found['false_causes']} with a false cause; {found['false_alarms']} false "
        f"alarms for {found['right_total']} right implementations",
        first="",
    )
