"""gta-ref doctor: show the findings of gta_ref.doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, one_line_errors, table


@one_line_errors
def doctor(
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Instead, compile the CUDA kernels for sm_80, sm_90 and sm_90a and show their registers, spills and "
            "shared memory. No GPU is needed.",
        ),
    ] = False,
    course: Annotated[
        bool,
        typer.Option(
            "--course",
            help="Instead, try what the notebooks and exercises need: Jupyter, the course's files, the CUDA simulator, "
            "the first compilation, and the disk. Exit status 1 if something is missing.",
        ),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Say what is installed and which engines can run here.

    For an engine that cannot run, the reason is given.
    """
    from gta_ref import doctor as facts
    from gta_ref.files import write_json
    from gta_ref.packages import OPTIONAL, REQUIRED

    console = Console()
    if kernels and course:
        raise ValueError("kernels and course are two questions; ask one of them")
    if course:
        findings = facts.course()
        ready = table("for the course", "ready", "")
        for one in findings:
            ready.add_row(one["what"], "[green]yes[/]" if one["ready"] else "[red]no[/]", escape(one["text"]))
        console.print(ready)
        if json is not None:
            write_json(json, {"course": findings})
        raise typer.Exit(0 if all(one["ready"] for one in findings) else 1)
    if kernels:
        found: dict[str, Any] = {"kernels": facts.kernels()}
        _show_kernels(console, found["kernels"])
        if json is not None:
            write_json(json, found)
        return
    found = facts.examine()
    console.print(
        f"gta_ref {found['gta_ref']}, Python {found['python']}, {found['cores']} cores, {found['platform']}",
        highlight=False,
    )
    for blas in found["blas"]:
        console.print(
            f"BLAS: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}, "
            f"{blas['num_threads']} threads",
            highlight=False,
        )
    packages = table("package", "version", "for")
    for name, purpose in {**REQUIRED, **OPTIONAL}.items():
        version = found["packages"][name]
        packages.add_row(name, version or "[dim]not installed[/]", purpose)
    console.print(packages)
    engines = table("engine", "can run here")
    for name, reason in found["engines"].items():
        engines.add_row(name, "[green]yes[/]" if reason is None else f"no: {escape(reason)}")
    console.print(engines)
    if json is not None:
        write_json(json, found)


def _show_kernels(console: Console, kernels: list[dict[str, Any]]) -> None:
    """Print the resources that each kernel uses, with the architectures side by side."""
    console.print(
        "d_k 64, d_v 128, as in GTA-1B; given as sm_80 / sm_90 / sm_90a, without those at the end that equal the one "
        "before",
        highlight=False,
    )
    columns = ("registers", "spills", "stack", "shared", "hmma", "blocks")
    rows = table("kernel", "threads", "registers", "spills", "stack", "shared", "HMMA", "blocks", numbers_from=1)
    for name in dict.fromkeys(one["kernel"] for one in kernels):
        each = [one for one in kernels if one["kernel"] == name]
        cells = [
            _side_by_side(["?" if one[column] is None else f"{one[column]:,}" for one in each]) for column in columns
        ]
        only = "" if len(each) > 1 else f" ({each[0]['arch']} only)"
        rows.add_row(name + only, str(each[0]["threads"]), *cells)
    console.print(rows)
    console.print(
        "registers: per thread; spills, stack: bytes per thread; shared: bytes per block; HMMA: tensor-core "
        "instructions; blocks: how many fit on a multiprocessor at once, as limited by registers and threads",
        highlight=False,
    )


def _side_by_side(cells: list[str]) -> str:
    """The cells, without those at the end that repeat the one before."""
    while len(cells) > 1 and cells[-1] == cells[-2]:
        cells = cells[:-1]
    return " / ".join(cells)
