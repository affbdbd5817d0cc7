"""gta-ref verify model: compare a whole model's activations with its checkpoint, or write those of this library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gta_ref.commands.common import table
from gta_ref.commands.verify_output import progress

if TYPE_CHECKING:
    from gta_ref.verify.models.report import ModelReport, StageResult


def run(
    console: Console,
    words: Sequence[str],
    prompt: str | None,
    dtype: str | None,
    export: Path | None,
    json: Path | None,
) -> None:
    """Do what `gta-ref verify model CHECKPOINT [DUMP]` asks for; exit with the report's status."""
    if len(words) != 2 and not (len(words) == 1 and export is not None):
        raise ValueError(
            "verify model needs a checkpoint and a file of activations; with --export, of ids, or --prompt"
        )
    if export is not None:
        from gta_ref.verify.models.export import export_activations

        file = words[1] if len(words) == 2 else None
        names = export_activations(words[0], export, ids=file, prompt=prompt, dtype=dtype or "float32")
        console.print(f"{export}: {len(names)} arrays, {names[0]} to {names[-1]}", highlight=False)
        return
    from gta_ref.files import write_json
    from gta_ref.verify.models.verify import verify_model

    with progress() as show_name:
        report = verify_model(words[0], words[1], prompt=prompt, dtype=dtype, on_progress=show_name)
    show(console, report)
    if json is not None:
        write_json(json, report.to_dict())
    if report.exit_status:
        raise typer.Exit(report.exit_status)


def show(console: Console, report: ModelReport) -> None:
    """Print the stages of the parts with an error, a line for each of the other parts, and the summary."""
    rows = table("stage", "", "local error ÷ budget", "accumulated", numbers_from=2)
    parts: dict[str, list[StageResult]] = {}
    for stage in report.stages:
        words = stage.stage.split(".")
        parts.setdefault(".".join(words[:2]) if words[0] == "blocks" else "", []).append(stage)
    for part, stages in parts.items():
        if part and all(stage.kind == "ok" for stage in stages):
            _row(rows, f"{part}: {len(stages)} stages", "ok", stages)
        else:
            for stage in stages:
                _row(rows, stage.stage, stage.kind, [stage])
    console.print(rows)
    for line in report.summary():
        console.print(escape(line), highlight=False, soft_wrap=True)


def _row(rows: Table, name: str, kind: str, stages: Sequence[StageResult]) -> None:
    accumulated = [stage.accumulated for stage in stages if stage.accumulated is not None]
    colour = "green" if kind == "ok" else "red"
    whole = f"{max(accumulated):.3g}" if accumulated else ""
    rows.add_row(escape(name), f"[{colour}]{kind}[/]", f"{max(stage.ratio for stage in stages):.3g}", whole)
