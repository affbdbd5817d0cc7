"""Shared maps: which head reads what in each mechanism, and the operations of the attention core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from gta_ref.mechanisms.structure import Structure
from gta_ref.plots.common import PART_COLOURS, SMALLEST, note, panels, shared_legend

# the four kinds of heads, bottom up: height of their row in points, and name
_ROWS = {"keys": 58.0, "maps": 126.0, "output heads": 194.0, "values": 262.0}
_NAMES = {"maps": "attention maps"}
_HINTS = {"keys": "cached", "maps": "computed for every\npair of tokens", "values": "cached"}
_TALL = 11.0  # points, of a box
_LEFT = 104.0  # points, of the column with the rows' names
_NOTE = 0.68  # opacity of less important text, which so suits a light and a dark background


def who_reads_what(
    layers: Mapping[str, tuple[Structure, Sequence[int]]], title: str = "", width: float = 720
) -> Figure:
    """Draw each mechanism's keys, maps, output heads and values, and a line wherever one is read by another.

    Parameters
    ----------
    layers : mapping of str to (Structure, sequence of n_heads int)
        The heading of a panel, the layer's sizes, and the number of the value that each output head reads.
    title : str
    width : float
        Points.

    Returns
    -------
    Figure
        Each panel has the number of elements that its layer caches per token at the bottom.
    """
    height = 310.0 + 26 * bool(title)
    figure = Figure(figsize=(width / 72, height / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.text(width / 2, height - 8, title, ha="center", va="top", fontsize=11)
    for part, y in _ROWS.items():
        lines = 1 + _HINTS.get(part, "").count("\n") + (part in _HINTS)
        ax.text(6, y + 5.5 * (lines - 1), _NAMES.get(part, part), va="center", fontsize=10, weight="bold")
        ax.text(6, y - 3 - 2.5 * (lines - 1) / 2, _HINTS.get(part, ""), va="center", fontsize=SMALLEST, alpha=_NOTE)
    ax.text(6, 12, "cached elements\nper token and layer", va="center", fontsize=SMALLEST, alpha=_NOTE)
    each = (width - _LEFT) / len(layers)
    for i, (name, (layer, value_of)) in enumerate(layers.items()):
        _panel(ax, _LEFT + i * each, each, name, layer, np.asarray(value_of))
    return figure


def _panel(ax: Axes, left: float, width: float, name: str, layer: Structure, value_of: np.ndarray) -> None:
    """Draw one mechanism, from `left` on and as wide as `width`, all in points."""
    counts = {"keys": layer.n_k, "maps": layer.n_q, "output heads": layer.n_heads, "values": int(value_of.max()) + 1}
    inner = width - 34  # a count is to the right of its row
    places = {part: left + (np.arange(n) + 0.5) * inner / n for part, n in counts.items()}
    maps, heads = np.arange(layer.n_q), np.arange(layer.n_heads)
    reads = (
        ("keys", maps // (layer.n_q // layer.n_k), "maps"),
        ("maps", heads // (layer.n_heads // layer.n_q), "output heads"),
        ("values", value_of, "output heads"),
    )
    for read, numbers, reader in reads:
        _lines(ax, (places[read][numbers], _ROWS[read]), (places[reader], _ROWS[reader]), PART_COLOURS[read])
    for part, n in counts.items():
        # a box is as wide as an output head's; a single one may be wider, to be seen
        wide = min(0.74 * inner / n, 15.0)
        _boxes(ax, places[part], _ROWS[part], wide, PART_COLOURS[part])
        ax.text(left + inner + 2, _ROWS[part], str(n), va="center", fontsize=10, weight="bold")
    middle = left + inner / 2
    ax.text(middle, _ROWS["values"] + 32, name, ha="center", va="center", fontsize=11, weight="bold")
    key, value = _widths(layer, counts["values"])
    ax.text(middle, _ROWS["values"] + 15, value, ha="center", va="center", fontsize=SMALLEST, alpha=_NOTE)
    ax.text(middle, _ROWS["keys"] - 10, key, ha="center", va="top", fontsize=SMALLEST, alpha=_NOTE)
    ax.text(middle, 12, f"{layer.cache_elements:,}", ha="center", va="center", fontsize=11, weight="bold")


def _widths(layer: Structure, n_values: int) -> tuple[str, str]:
    """Describe a layer's keys and values in words."""
    of_values = sum(heads * width for name, (heads, width) in layer.cached.items() if not name.startswith("k"))
    latent = "c" in layer.cached
    value = f"{n_values} {'latent' if latent else 'value'}{'s' * (n_values > 1)}, {of_values // n_values} wide"
    if layer.cache_elements < layer.n_k * layer.d_k + of_values:  # the values are part of the keys
        return f"the same latent and\na RoPE key, {layer.d_k} wide", value
    return f"{layer.n_k} key{'s' * (layer.n_k > 1)}, {layer.d_k} wide", value


def _boxes(ax: Axes, x: np.ndarray, y: float, width: float, colour: str) -> None:
    """Draw boxes around points of one height, as one path."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) / 2 * (width, _TALL)
    vertices = (np.stack([x, np.full_like(x, y)], axis=1)[:, None] + corners).reshape(-1, 2)
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(x)
    ax.add_patch(PathPatch(Path(vertices, codes), facecolor=colour, lw=0, zorder=2, clip_on=False))


def _lines(ax: Axes, read: tuple[np.ndarray, float], reader: tuple[np.ndarray, float], colour: str) -> None:
    """Draw lines from what is read to what reads it, as one path; both are places and the height of their row."""
    ends = [np.stack([x, np.full_like(x, y)], axis=1) for x, y in (read, reader)]
    vertices = np.stack(ends, axis=1).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO] * len(read[0])
    ax.add_patch(PathPatch(Path(vertices, codes), fill=False, edgecolor=colour, lw=1, zorder=1, clip_on=False))


def core_operations(layers: Mapping[str, Structure], title: str = "") -> Figure:
    """Draw the attention core's multiply–accumulates per query and key that it sees: scores, and weighted values.

    Parameters
    ----------
    layers : mapping of str to Structure
        The others are compared with the first one.
    title : str

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((9, 0.5 * len(layers) + 1.3), title=title)
    where = np.arange(len(layers))
    scores = np.array([layer.n_q * layer.d_k for layer in layers.values()])
    context = np.array([layer.n_q * layer.d_v for layer in layers.values()])
    ax.barh(where, scores, 0.65, color=PART_COLOURS["keys"], label="scores Q Kᵀ")
    ax.barh(where, context, 0.65, left=scores, color=PART_COLOURS["values"], label="map times values")
    total = scores + context
    for y, macs in enumerate(total):
        change = f"  ({macs / total[0] - 1:+.1%})".replace("-", "−") if macs != total[0] else ""
        note(ax, f"{macs}{change}", (macs, y), fontsize=10)
    ax.set_yticks(where, list(layers), fontsize=10)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.22 * total.max())
    ax.set_xlabel("multiply–accumulates per query and key")
    shared_legend(figure, ax)
    return figure
