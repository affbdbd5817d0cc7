"""gta-ref heal: let a converted model learn from the original what its conversion has lost."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gta_ref.commands.common import JsonOption, check_output, one_line_errors, table

if TYPE_CHECKING:
    from gta_ref.convert.heal import Healing
    from gta_ref.convert.judge import Judgement
    from gta_ref.convert.texts import Corpus
    from gta_ref.lm.language_model import LanguageModel

SAVE_EVERY = 50  # steps
_SETTINGS = ("layer_steps", "steps", "batch", "length", "layer_rate", "rate", "seed")
_JUDGED, _QUICK_JUDGED = (8, 512), (2, 256)  # windows of held-out text, and tokens in each


@one_line_errors
def heal(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="The converted model: a file that gta-ref convert has written.")] = Path(
        "gta.safetensors"
    ),
    layer_steps: Annotated[int, typer.Option(help="Steps layer by layer, on the original's hidden states.")] = 600,
    steps: Annotated[int, typer.Option(help="Steps end to end, on the original's predictions.")] = 300,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    layer_rate: Annotated[float, typer.Option(help="Peak of the learning rate, layer by layer.")] = 3e-3,
    rate: Annotated[float, typer.Option(help="Peak of the learning rate, end to end.")] = 2e-4,
    seed: Annotated[int, typer.Option(help="Seed of the text that is drawn.")] = 0,
    texts: Annotated[
        int, typer.Option(help="Texts of 256 tokens that the original writes first, to be learnt from too.", min=0)
    ] = 256,
    written: Annotated[
        Path, typer.Option(help="File of these texts; if it is there, it is read, and nothing is written.")
    ] = Path("gta-written.txt"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few short steps without texts of the original, to see that it runs.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="File of the healed model, ending in .safetensors.", callback=check_output)
    ] = Path("gta-healed.safetensors"),
    json: JsonOption = None,
) -> None:
    """Let a converted model learn from the original what its conversion has lost.

    Only the attention and the gains of the norms are trained, with AdamW. The text is Python's documentation, NumPy's,
    SciPy's and Matplotlib's, the standard library, and what the original writes itself. Every 50 steps the healing is
    saved beside the healed model's file; the same command continues it, and the file is removed in the end.
    """
    from gta_ref.convert import heal as healing_of
    from gta_ref.convert import heal_files, judge
    from gta_ref.convert import texts as sources
    from gta_ref.convert.original import Original
    from gta_ref.files import write_json
    from gta_ref.lm import model_files
    from gta_ref.lm.train import DivergedError
    from gta_ref.weights import pretrained

    if out.suffix != ".safetensors":
        raise ValueError(f"out={str(out)!r} must end in .safetensors")
    settings = healing_of.Settings(**{name: context.params[name] for name in _SETTINGS})
    if quick:
        settings = dataclasses.replace(healing_of.QUICK, seed=settings.seed)
    content = model_files.load(model)
    teacher = pretrained.load(content.tokenizer)
    original = Original(teacher.params, teacher.config)

    console = Console()
    own = {} if quick or texts == 0 else {"written": written_text(console, teacher, texts, written)}
    corpus = sources.corpus(teacher.tokenizer.encode, **own)
    console.print(f"text: {corpus.name}", markup=False, highlight=False)
    healing = healing_of.begin(content.params, content.config, settings, corpus)
    saved = out.with_name(f"{out.stem}.healing.safetensors")
    if saved.exists():
        try:
            healing = heal_files.load(saved, healing)
        except ValueError as error:
            raise ValueError(f"{error}; delete the file to begin anew") from None
        console.print(f"continues after step {healing.state.step}", highlight=False)
    judged_windows = _QUICK_JUDGED if quick else _JUDGED
    held_out = {
        kind: sources.windows(teacher.tokenizer.encode, kind, *judged_windows, held_out=True) for kind in sources.KINDS
    }
    models = {"original": (original.params, original.config), "converted": (content.params, content.config)}
    judged = {name: _judged(judge, *each, original, held_out) for name, each in models.items()}
    try:
        _advance(console, healing, original, corpus, saved)
    except KeyboardInterrupt:
        heal_files.save(saved, healing)
        raise KeyboardInterrupt(
            f"stopped after step {healing.state.step}; {shlex.quote(str(saved))} has it, and the same command continues"
        ) from None
    except DivergedError as error:
        raise ValueError(f"{error}; try a smaller --layer-rate or --rate") from None
    model_files.save(out, content._replace(params=healing.params))
    saved.unlink(missing_ok=True)
    judged["healed"] = _judged(judge, healing.params, healing.config, original, held_out)
    _show(console, judged)
    console.print(f"Written to {out}", markup=False, highlight=False)
    if json is not None:
        write_json(json, _figures(healing, judged))


def written_text(console: Console, teacher: LanguageModel, n: int, path: Path) -> str:
    """What the original writes itself, read from a file or written to it."""
    from gta_ref.convert import written
    from gta_ref.files import atomic_path, check_writable

    if path.exists():
        try:
            return path.read_bytes().decode()  # read_text() would turn the line ends of Windows into others
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text in UTF-8") from None
    check_writable(path)
    columns = TextColumn("the original writes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=written.LENGTH)
        text = written.texts(teacher, n, on_token=lambda: bar.advance(task))
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
    return text


def _advance(console: Console, healing: Healing, original: Any, corpus: Corpus, saved: Path) -> None:
    from gta_ref.convert import heal as healing_of
    from gta_ref.convert import heal_files

    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=healing.settings.total, completed=healing.state.step)

        def show(now: Healing) -> None:
            by_layers = now.state.step <= now.settings.layer_steps
            stage = "layer by layer" if by_layers else "end to end"
            bar.update(task, completed=now.state.step, description=f"{stage}: loss {now.losses[-1]:.3f}")
            if now.state.step % SAVE_EVERY == 0:
                heal_files.save(saved, now)

        healing_of.advance(healing, original, corpus, on_step=show)


def _judged(judge: Any, params: Any, config: Any, original: Any, held_out: dict[str, Any]) -> dict[str, Judgement]:
    return {kind: judge.beside(params, config, original, ids) for kind, ids in held_out.items()}


def _show(console: Console, judged: dict[str, dict[str, Judgement]]) -> None:
    rows = table("", *judged, numbers_from=1)
    for kind in judged["original"]:
        found = [of[kind] for of in judged.values()]
        rows.add_row(f"loss on held-out {kind}, nats per token", *(f"{one.loss:.3f}" for one in found))
        rows.add_row("  divergence from the original, nats", *(f"{one.divergence:.3f}" for one in found))
        rows.add_row("  same most likely next token", *(f"{one.agreement:.1%}" for one in found))
    console.print(rows)


def _figures(healing: Healing, judged: dict[str, dict[str, Judgement]]) -> dict[str, Any]:
    import dataclasses

    return {
        "settings": dataclasses.asdict(healing.settings),
        "text": healing.text,
        "seconds": healing.seconds,
        "losses": healing.losses,
        "judged": {name: {kind: one._asdict() for kind, one in of.items()} for name, of in judged.items()},
    }
