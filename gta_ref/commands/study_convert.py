"""gta-ref study convert: what smaller caches and fewer maps cost a pretrained model, before and after healing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import table
from gta_ref.commands.heal import written_text

_TEXTS = 256  # that the original writes itself


def study_convert(folder: Path, quick: bool, plot: Path | None, json: Path | None) -> None:
    """Carry out the study, print what was found, and write it to the files that are asked for."""
    from gta_ref.convert import plan as plans
    from gta_ref.convert import study, texts
    from gta_ref.files import write_json
    from gta_ref.weights import pretrained

    console = Console()
    teacher = pretrained.load()
    console.print(f"[bold]What does GTA cost a model that was trained with GQA?[/] {teacher.name}", highlight=False)
    console.print(f"the files of the conversions are in {folder}", highlight=False, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    own = {} if quick else {"written": written_text(console, teacher, _TEXTS, folder / "written.txt")}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(told: study.Told) -> None:
            bar.update(task, description=told.what, completed=told.done, total=told.of)

        corpus = texts.corpus(teacher.tokenizer.encode, **own)
        plan = plans.quick() if quick else plans.Plan()
        try:
            found = study.Study(teacher, plan, corpus, folder, tell).run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues where it was") from None
    _show(console, found)
    if json is not None:
        write_json(json, found)
    if plot is not None:
        from gta_ref.plots import convert as drawn
        from gta_ref.plots.common import save

        save(drawn.study(found), plot)


def _show(console: Console, found: dict[str, Any]) -> None:
    alone = found["sharing"]["divergence"]
    console.print(
        f"{found['sharing']['n_q']} maps in one layer alone move the predictions by {min(alone):.3f} to "
        f"{max(alone):.3f} nats (KL), most in layer {alone.index(max(alone))}\n",
        highlight=False,
    )
    rows = table("", "maps", "cache", "prose", "code", "KL", "same token", numbers_from=1)
    original = found["original"]
    rows.add_row("the original", f"{original['maps']}", f"{original['cache_elements']:g}", *_cells(original))
    for point in found["points"]:
        rows.add_row(point["name"], f"{point['maps']}", f"{point['cache_elements']:g}", *_cells(point))
        for healed in point["healed"]:
            budget = healed["settings"]
            label = f"  healed {budget['layer_steps']}+{budget['steps']}, seed {budget['seed']}"
            rows.add_row(label, "", "", *_cells(healed))
    console.print(rows)
    console.print(
        "\nprose, code: loss on held-out text, nats per token; KL, same token: how far the predictions are from the "
        "original's, and how often the most likely token is the same; means of both kinds of text",
        highlight=False,
    )


def _cells(of: dict[str, Any]) -> list[str]:
    kinds = of["held_out"].values()
    divergence, agreement = (sum(kind[name] for kind in kinds) / len(kinds) for name in ("divergence", "agreement"))
    return [*(f"{kind['loss']:.3f}" for kind in kinds), f"{divergence:.3f}", f"{agreement:.1%}"]
