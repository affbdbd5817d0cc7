"""The cache's accounting: bytes per token, the family of mechanisms side by side, and what fits into a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gta_ref.mechanisms.structure import Structure
from gta_ref.plots.common import GREY, PART_COLOURS, SMALLEST, THOUSANDS, WIDTH, mechanism_styles, note, panels


def cache_growth(
    bytes_per_token: Mapping[str, int], measured: Mapping[str, Sequence[tuple[int, int]]], title: str = ""
) -> Figure:
    """Draw the bytes that one token needs in the cache, and how the cache of a whole model grows with the text.

    Parameters
    ----------
    bytes_per_token : mapping of str to int
        Model → bytes by formula, all layers together; the last model is the baseline of the ratios.
    measured : mapping of str to sequence of (tokens, bytes)
        Model → bytes held by real caches while they were filled.
    title : str

    Returns
    -------
    Figure
    """
    figure, (bars, lines) = panels((WIDTH, 3.8), 1, 2, title=title, width_ratios=(1, 1.3))
    names = list(bytes_per_token)
    baseline = bytes_per_token[names[-1]]
    in_bytes = EngFormatter("B")
    context = max(tokens for points in measured.values() for tokens, _ in points)
    styles = mechanism_styles(names)
    for i, (name, size) in enumerate(bytes_per_token.items()):
        colour, marker, line = styles[name]
        ratio = "" if name == names[-1] else f" ({size / baseline:.3f} ×)"
        bars.barh(i, size, color=colour, height=0.5)
        note(bars, f"{in_bytes(size)}{ratio}", (size, i), fontsize=10)
        lines.plot([0, context], [0, size * context], color=colour, ls=line, label=f"{name}, by formula")
        lines.plot(*zip(*measured[name], strict=True), marker, color=colour, label=f"{name}, bytes held")
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.3 * max(bytes_per_token.values()))
    bars.xaxis.set_major_formatter(EngFormatter("B"))
    bars.set_xlabel("cache of one token, all layers")
    lines.set_xlim(0, None)
    lines.set_ylim(0, None)
    lines.set_xlabel("tokens in the cache")
    lines.set_ylabel("cache of one sequence, all layers")
    lines.yaxis.set_major_formatter(EngFormatter("B"))
    lines.legend(frameon=False)
    return figure


def family(structures: Mapping[str, Structure]) -> Figure:
    """Draw the cache, attention operations and parameters of several attention layers, one bar per layer.

    Parameters
    ----------
    structures : mapping of str to Structure

    Returns
    -------
    Figure
    """
    figure, (cache, attention, parameters) = panels((WIDTH, 1 + 0.42 * len(structures)), 1, 3, sharey=True)
    rows = range(len(structures))
    for row, s in zip(rows, structures.values(), strict=True):
        left = 0
        for name, (heads, width) in sorted(s.cached.items(), key=lambda entry: not entry[0].startswith("k")):
            part, label = ("keys", "keys") if name.startswith("k") else ("values", "values or latent")
            colour = PART_COLOURS[part]
            cache.barh(row, heads * width, left=left, height=0.6, color=colour, label=label if row == 0 else None)
            left += heads * width
    macs = [s.attention_macs for s in structures.values()]
    millions = [s.parameters / 1e6 for s in structures.values()]
    attention.barh(rows, macs, height=0.6, color=PART_COLOURS["attention"])
    parameters.barh(rows, millions, height=0.6, color=GREY)
    shown: tuple[tuple[Axes, Sequence[float], str], ...] = (
        (cache, [s.cache_elements for s in structures.values()], "{:,}"),
        (attention, macs, "{:,}"),
        (parameters, millions, "{:,.2f}"),
    )
    for ax, values, form in shown:
        for row, value in zip(rows, values, strict=True):
            note(ax, form.format(value), (value, row), fontsize=SMALLEST)
        ax.set_xlim(0, 1.3 * max(values))
        ax.tick_params(axis="x", labelsize=SMALLEST)
    cache.set_yticks(rows, list(structures))
    cache.invert_yaxis()
    cache.legend(frameon=False, fontsize=SMALLEST, loc="lower right")
    cache.set_xlabel("cached elements\nper token")
    attention.set_xlabel("attention, multiply–accumulates\nper query and key")
    parameters.set_xlabel("parameters of the layer,\nmillions")
    return figure


def what_fits(
    contexts: Sequence[int], batches: Mapping[str, Mapping[str, Sequence[int]]], trained: int | None = None
) -> Figure:
    """Draw how many sequences fit into a memory, against their length; one panel per machine, one line per model.

    Parameters
    ----------
    contexts : sequence of int
    batches : mapping of str to mapping of str to sequence of int
        Machine → model → sequences that fit at each context.
    trained : int, optional
        Tokens of context in training; marked by a dashed line.

    Returns
    -------
    Figure
    """
    figure, axes = panels((WIDTH, 4.2), 1, len(batches), grid="both", sharey=True)
    for ax, (machine, models) in zip(axes, batches.items(), strict=True):
        styles = mechanism_styles(models)
        for name, counts in models.items():
            shown = [(n, count) for n, count in zip(contexts, counts, strict=True) if count]
            ax.plot(*zip(*shown, strict=True), color=styles[name].colour, ls=styles[name].line, lw=2, label=name)
        if trained is not None:
            ax.axvline(trained, color="0.6", ls="--", lw=1)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks([n for n in contexts if n.bit_length() % 2], minor=False)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:g}k")
        ax.yaxis.set_major_formatter(THOUSANDS)
        ax.set_title(machine, fontsize=10)
        ax.set_xlabel("context, tokens (k = 1024)")
    axes[0].set_ylabel("sequences that fit")
    axes[-1].legend(frameon=False)
    return figure
