"""gta-ref convert: turn a pretrained model with grouped-query attention into GTA, in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import JsonOption, check_output, one_line_errors, table

if TYPE_CHECKING:
    from gta_ref.convert.layer import Report
    from gta_ref.convert.sizes import Sizes
    from gta_ref.lm.model import Config

_WINDOWS, _LENGTH, _JUDGED = 32, 512, 4
_QUICK = 4, 256, 2


@one_line_errors
def convert(
    model: Annotated[str, typer.Option(help="The pretrained model: smollm2.")] = "smollm2",
    n_q: Annotated[
        int | None, typer.Option("--n-q", help="Attention maps per layer. Default: one per head, as the original has.")
    ] = None,
    n_k: Annotated[
        int | None,
        typer.Option("--n-k", help="Key heads. Default: as many as the original has, or fewer to divide the maps."),
    ] = None,
    n_c: Annotated[int, typer.Option("--n-c", help="Latent value heads.")] = 1,
    d_l: Annotated[
        int | None, typer.Option("--d-l", help="Width of a latent. Default: all values of the original, uncut.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers in which maps are shared, as 7,20-29; the others keep all maps. Default: all."),
    ] = None,
    gate: Annotated[str, typer.Option(help="The gate: sigmoid, which starts open, or none.")] = "sigmoid",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fit to a sixteenth of the text: faster and worse, to see that it runs.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="File of the converted model, ending in .safetensors.", callback=check_output)
    ] = Path("gta.safetensors"),
    json: JsonOption = None,
) -> None:
    """Turn a pretrained model with grouped-query attention into GTA.

    Heads that would put out nearly the same with one another's map share one, values go through latents, and the gate
    starts open. Nothing is trained: each layer is fitted in closed form to what the original does on prose and code
    that come with Python. The losses shown are on text that was held out.
    """
    import numpy as np

    from gta_ref.convert import judge, texts, whole
    from gta_ref.convert.sizes import Sizes
    from gta_ref.errors import check_choice
    from gta_ref.files import write_json
    from gta_ref.lm import model_files
    from gta_ref.weights import pretrained

    check_choice("model", model, tuple(pretrained.MODELS))
    if out.suffix != ".safetensors":
        raise ValueError(f"out={str(out)!r} must end in .safetensors")
    original = pretrained.load(model)
    sizes = _sizes(Sizes(n_q, n_k, n_c, d_l, gate), layers, original.config.n_layers)
    for i, one in enumerate(sizes):
        one.config(original.config.layer(i))  # sizes that do not fit are refused before the text is read
    windows, length, judged = _QUICK if quick else (_WINDOWS, _LENGTH, _JUDGED)
    encode = original.tokenizer.encode
    ids = np.concatenate([texts.windows(encode, kind, windows // 2, length, held_out=False) for kind in texts.KINDS])
    held_out = {kind: texts.windows(encode, kind, judged, length, held_out=True) for kind in texts.KINDS}

    console = Console()
    columns = TextColumn("layer"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=original.config.n_layers)
        params, config, reports = whole.convert(
            original.params, original.config, sizes, ids, on_layer=lambda *_: bar.advance(task)
        )
    assert original.context_length is not None  # a pretrained model states it
    model_files.save(out, model_files.Content(config, params, model, original.context_length))
    losses = {
        kind: [judge.loss(*each, text) for each in ((original.params, original.config), (params, config))]
        for kind, text in held_out.items()
    }
    found = _figures(original.config, config, reports, losses, ids.size)
    _show(console, found)
    console.print(f"Written to {out}", markup=False, highlight=False)
    if json is not None:
        write_json(json, {"model": original.name, "windows": windows, "length": length, **found})


def _sizes(shared: Sizes, layers: str | None, n_layers: int) -> list[Sizes]:
    """The sizes of every layer; those outside of `layers` keep all maps and key heads."""
    from dataclasses import replace

    if layers is None:
        return [shared] * n_layers
    chosen: set[int] = set()
    for part in layers.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < n_layers):
            raise ValueError(f"layers={layers!r} must be layers and ranges of them such as 0,2-{n_layers - 1}")
        chosen |= set(range(int(first), int(last) + 1))
    kept = replace(shared, n_q=None, n_k=None)
    return [shared if i in chosen else kept for i in range(n_layers)]


def _figures(
    original: Config, made: Config, reports: list[Report], losses: dict[str, list[float]], tokens: int
) -> dict[str, Any]:
    structures = [[config.module.structure(one) for one in config.layers] for config in (original, made)]
    return {
        "tokens": tokens,
        "maps": [sum(s.n_q for s in of) for of in structures],
        "cache_elements": [original.cache_elements, made.cache_elements],
        "loss": losses,
        "layers": [report._asdict() for report in reports],
    }


def _show(console: Console, found: dict[str, Any]) -> None:
    rows = table("", "original", "GTA", numbers_from=1)
    rows.add_row("attention maps, all layers", *(f"{n:,}" for n in found["maps"]))
    rows.add_row("cache, elements per token and layer", *(f"{n:g}" for n in found["cache_elements"]))
    for kind, pair in found["loss"].items():
        rows.add_row(f"loss on held-out {kind}, nats per token", *(f"{x:.3f}" for x in pair))
    console.print(rows)
    for name, what in (
        ("keys_lost", "the new keys lose of the scores"),
        ("values_lost", "the latents lose of the output"),
    ):
        lost = [layer[name] for layer in found["layers"]]
        console.print(
            f"By layer, {what} {min(lost):.1%} to {max(lost):.1%} (share of the mean square)", highlight=False
        )
