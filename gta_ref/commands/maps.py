"""gta-ref maps: how similar the attention maps of a trained model's heads are, and how many of them it would need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gta_ref.commands.common import JsonOption, ModelOption, one_line_errors, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gta_ref.lm.language_model import LanguageModel
    from gta_ref.maps.compare import Layer
    from gta_ref.maps.passages import Window
    from gta_ref.mechanisms.structure import Structure

_SHORT = {"all_keys": "all keys", "without_first": "no first", "without_sinks": "no sinks"}  # names of compare.VIEWS
_SHOWN = "0.8"  # the cosine threshold that the table by layer uses
_TOKENS = 32  # tokens shown in the figure of the maps


@one_line_errors
def maps(
    model: ModelOption = "smollm2",
    text: Annotated[
        Path | None,
        typer.Option(help="Text file that the model reads. Default: 4 passages of prose and 4 of code, built in."),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in each window of text.", min=8)] = 256,
    windows: Annotated[
        int, typer.Option(help="Largest number of windows that are taken from the text, evenly spaced.", min=2)
    ] = 8,
    layer: Annotated[
        int | None, typer.Option(help="Index of the layer whose maps are drawn, from 0. Default: the middle one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the baseline with shuffled keys.", min=0)] = 0,
    json: JsonOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the four figures and maps.json. Default: write none.")
    ] = None,
) -> None:
    """Measure how similar the attention maps of a model's heads are.

    The heads of each layer are compared with one another and with two baselines, and grouped into clusters.
    """
    import numpy as np

    from gta_ref.files import write_json
    from gta_ref.maps import compare
    from gta_ref.maps.report import report
    from gta_ref.weights.load import load_model

    reader = load_model(model)
    chosen = reader.config.n_layers // 2 if layer is None else layer
    if not 0 <= chosen < reader.config.n_layers:
        raise ValueError(f"layer={layer} must be from 0 to {reader.config.n_layers - 1}")
    read = _windows(reader, text, length, windows)
    layers = [reader.config.module.structure(attention) for attention in reader.config.layers]
    if all(structure.n_q < 2 for structure in layers):
        raise ValueError(f"{reader.name} has one map in every layer; expected a layer with two or more to compare")
    console = Console()
    _introduce(console, reader, layers, read)

    rng = np.random.default_rng(seed)
    found: list[Layer] = []
    ids = np.stack([window.ids for window in read])
    columns = SpinnerColumn(), TextColumn("layer"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=reader.config.n_layers)
        for i, of_layer in enumerate(compare.layer_maps(reader.params, ids, reader.config)):
            if i == chosen:
                drawn = of_layer[0, :, :_TOKENS, :_TOKENS].copy()
            found.append(compare.measure(of_layer, rng))
            bar.advance(task)

    figures = {
        "model": reader.name,
        "mechanism": reader.config.mechanism,
        "n_layers": reader.config.n_layers,
        "length": length,
        "windows": [{"name": w.name, "begins": reader.tokenizer.decode(w.ids[:12].tolist())} for w in read],
        "seed": seed,
        "sink_weight": compare.SINK_WEIGHT,
        "sink_distance": compare.SINK_DISTANCE,
        "drawn_layer": chosen,
        "versions": _versions(),
        **report(found, [structure.n_k for structure in layers]),
    }
    _show(console, figures)
    if json is not None:
        write_json(json, figures)
    if out is not None:
        tokens = [reader.tokenizer.decode([i]) for i in read[0].ids[:_TOKENS].tolist()]
        _write(console, out, figures, _draw(figures, found, drawn, tokens, layers[chosen]))


def _windows(reader: LanguageModel, text: Path | None, length: int, n_windows: int) -> list[Window]:
    from gta_ref.maps import passages

    if reader.context_length is not None and length > reader.context_length:
        raise ValueError(f"length={length} must be at most {reader.context_length}, which {reader.name} can read")
    if text is None:
        return passages.standard(reader.tokenizer.encode, length, n_windows)
    return passages.from_file(text, reader.tokenizer.encode, length, n_windows)


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("gta-ref", "numpy", "scipy")}}


def _introduce(console: Console, reader: LanguageModel, layers: Sequence[Structure], read: Sequence[Window]) -> None:
    n_q, n_k = ({getattr(structure, name) for structure in layers} for name in ("n_q", "n_k"))
    console.print(
        f"[bold]{escape(reader.name)}[/]: {len(layers)} layers, {'with' if len(n_q) > 1 else 'each with'} "
        f"{_range(n_q)} map{'s' if max(n_q) > 1 else ''} over {_range(n_k)} key head{'s' if max(n_k) > 1 else ''}",
        highlight=False,
    )
    names = ", ".join(window.name for window in read)
    console.print(f"{len(read)} windows of {len(read[0].ids)} tokens: {names}", markup=False, highlight=False)


def _range(numbers: Collection[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most}" if least == most else f"{least} to {most}"


def _show(console: Console, figures: dict[str, Any]) -> None:
    console.print(
        "\nMeans over all pairs of two different heads in a layer:\n"
        "[bold]cos[/]    cosine of their maps' rows         [bold]bits[/]  Jensen–Shannon divergence\n"
        "[bold]pos[/]    the same cosine on two different texts: similarity by position alone\n"
        "[bold]maps[/]   number of maps that the layer has\n"
        f"[bold]k[/]      number of maps needed so that each head has one with cosine ≥ {_SHOWN}\n"
        "[bold]first[/]  weight on the first key\n"
        f"[bold]sinks[/]  weight on it and on keys that distant queries give ≥ {figures['sink_weight']} on average\n"
        "[bold]no first[/], [bold]no sinks[/]: without these keys; the rest of each row is scaled to sum 1\n",
        highlight=False,
    )
    rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("layer", "maps", "first", "sinks"):
        rows.add_column(f"\n{name}", justify="right")
    for name in _SHORT.values():
        # the name of the view is written above its columns, one word above each
        for word, column in zip((*name.split(), "", ""), ("cos", "pos", "bits", "k"), strict=True):
            rows.add_column(f"[bold]{word}[/]\n{column}", justify="right")
    for layer in figures["layers"]:
        cells = [str(layer[name]) for name in ("layer", "maps")]
        cells += [f"{layer[name]:.2f}" for name in ("first_weight", "sink_weight")]
        for view in _SHORT:
            found = layer[view]
            if found is None:  # a single map
                cells += 4 * ["–"]
                continue
            numbers = found["same"]["mean_cosine"], found["other"]["mean_cosine"], found["same"]["mean_divergence"]
            cells += [*(f"{number:.2f}" for number in numbers), str(found["maps_needed"][_SHOWN])]
        rows.add_row(*cells)
    console.print(rows)
    if single := [str(layer["layer"]) for layer in figures["layers"] if layer["maps"] == 1]:
        where = f"layer{'s' if len(single) > 1 else ''} {', '.join(single)}"
        console.print(f"\nOnly one map in {where}: left out of the means below", highlight=False)
    _show_summary(console, figures["summary"], figures["thresholds"])


def _show_summary(console: Console, summary: dict[str, Any], thresholds: Sequence[float]) -> None:
    console.print()
    rows = table("Mean over the layers", *_SHORT.values(), numbers_from=1)

    def row(label: str, value: Callable[[dict[str, Any]], str]) -> None:
        rows.add_row(label, *(value(summary[view]) for view in _SHORT))

    for label, key in (
        ("cosine", "cosine_same"),
        ("  on two different texts: position alone", "cosine_other"),
        ("  with shuffled keys: concentration alone", "cosine_shuffled"),
        ("  of one head on two different texts", "same_head_other_text"),
        ("  of whole maps, flattened", "flat_cosine"),
        ("divergence, bits", "divergence_same"),
        ("  on two different texts", "divergence_other"),
        ("  with shuffled keys", "divergence_shuffled"),
    ):
        row(label, lambda found, key=key: f"{found[key]:.2f}")  # type: ignore[misc]
    all_maps = summary["all_keys"]["maps"]
    for threshold in thresholds:
        label = f"maps needed of {all_maps}, cosine ≥ {threshold:g}"
        row(label, lambda found, t=f"{threshold:g}": str(found["maps_needed"][t]))  # type: ignore[misc]
    if (sharing := summary["all_keys"]["sharing_a_key"]) is not None:
        row("cosine of heads that share a key head", lambda found: f"{found['sharing_a_key']['within']:.2f}")
        row("cosine of heads that do not share one", lambda found: f"{found['sharing_a_key']['across']:.2f}")
        label = f"layers of {sharing['layers']} in which the former is higher"
        row(label, lambda found: str(found["sharing_a_key"]["layers_more_alike_within"]))
        label = f"key heads of {sharing['groups']} whose heads form a cluster"
        row(label, lambda found: str(found["sharing_a_key"]["groups_found"]))
        row("  expected by chance", lambda found: f"{found['sharing_a_key']['expected_by_chance']:.1f}")
    console.print(rows)
    console.print(
        "\nSimilar maps mean that on such text the layer computes some of them more than once. They do not say that a "
        "model with fewer, shared maps would be as good: only training such a model can show that.",
        highlight=False,
    )


def _draw(
    figures: dict[str, Any], found: Sequence[Layer], drawn: Any, tokens: Sequence[str], structure: Structure
) -> dict[str, Figure]:
    """Draw the figures; `drawn` are maps of the layer with this structure."""
    import numpy as np

    from gta_ref.maps.compare import VIEWS
    from gta_ref.plots.maps import attention_maps, head_similarity, maps_needed, similarity_by_layer

    name, chosen, thresholds, layers = (figures[key] for key in ("model", "drawn_layer", "thresholds", "layers"))
    none = dict.fromkeys(thresholds, np.nan)
    counts = {
        view: np.array([list((layer[view]["maps_needed"] if layer[view] else none).values()) for layer in layers])
        for view in VIEWS
    }
    several = layers[chosen]["all_keys"]
    title = f"{name}, layer {chosen}, reading {figures['windows'][0]['name']}"
    return {
        "similarity.svg": similarity_by_layer(found, f"How similar the attention maps of two heads are: {name}"),
        "heads.png": head_similarity(found, [layer["key_heads"] for layer in layers], f"Every pair of heads of {name}"),
        "needed.png": maps_needed(
            counts, thresholds, [layer["maps"] for layer in layers], f"How many maps a layer of {name} needs"
        ),
        "maps.png": attention_maps(
            drawn,
            tokens,
            n_heads=structure.n_heads if structure.n_heads > structure.n_q else None,
            clusters=several["clusters"][_SHOWN] if several else None,
            title=f"{title}\nheads of the same colour form a cluster at cosine ≥ {_SHOWN}" if several else title,
        ),
    }


def _write(console: Console, out: Path, figures: dict[str, Any], drawings: dict[str, Figure]) -> None:
    from gta_ref.files import write_json
    from gta_ref.plots.common import save

    out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawings.items():
        save(figure, out / name)
    write_json(out / "maps.json", figures)
    console.print(f"\nWritten to {out}: {', '.join(drawings)}, maps.json", markup=False, highlight=False)
