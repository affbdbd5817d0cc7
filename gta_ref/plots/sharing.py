"""Shared maps: which head reads what in each mechanism, and what the attention core multiplies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta_ref.mechanisms.structure import Structure
from gta_ref.plots.common import BLUE, GREEN, ORANGE, WIDTH, box, note, panels

_LEVELS = {"keys": (0.0, BLUE), "maps": (1.0, ORANGE), "output heads": (2.0, "0.55"), "values": (3.0, GREEN)}


def who_reads_what(layers: Mapping[str, tuple[Structure, Sequence[int]]], title: str = "") -> Figure:
    """Draw each mechanism's keys, maps, output heads and values, and a line wherever one is read by another.

    Parameters
    ----------
    layers : mapping of str to (Structure, sequence of n_heads int)
        The heading of a panel, the layer's sizes, and the number of the value that each output head reads.
    title : str

    Returns
    -------
    Figure
    """
    figure, axes = panels((WIDTH, 3.9), 1, len(layers), frame="none", title=title)
    for ax, (name, (layer, value_of)) in zip(axes, layers.items(), strict=True):
        heads, maps = np.arange(layer.n_heads), np.arange(layer.n_q)
        counts = {"keys": layer.n_k, "maps": layer.n_q, "output heads": layer.n_heads, "values": max(value_of) + 1}
        _lines(ax, layer.n_heads, ("keys", maps // (layer.n_q // layer.n_k), counts), ("maps", maps), BLUE)
        of_map = heads // (layer.n_heads // layer.n_q)
        _lines(ax, layer.n_heads, ("maps", of_map, counts), ("output heads", heads), ORANGE)
        _lines(ax, layer.n_heads, ("values", np.asarray(value_of), counts), ("output heads", heads), GREEN)
        for level, count in counts.items():
            y, colour = _LEVELS[level]
            for x in _places(count, layer.n_heads):
                box(ax, x - 0.36, y - 0.14, 0.72, 0.28, colour, zorder=2)
            ax.text(layer.n_heads - 0.2, y, str(count), va="center", fontsize=10, color="0.2")
        ax.set_title(name, fontsize=10)
        ax.set_xlim(-0.7, layer.n_heads + 0.7)
        ax.set_ylim(-0.3, 3.3)
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0].set_yticks([y for y, _ in _LEVELS.values()], list(_LEVELS), fontsize=10)
    return figure


def _places(count: int, width: int) -> np.ndarray:
    """Centres of `count` boxes at even distances over `width`."""
    return (np.arange(count) + 0.5) * width / count - 0.5


def _lines(
    ax: Axes, width: int, read: tuple[str, np.ndarray, dict[str, int]], reader: tuple[str, np.ndarray], colour: str
) -> None:
    level, numbers, counts = read
    starts = _places(counts[level], width)[numbers]
    ends = _places(counts[reader[0]], width)[reader[1]]
    ax.plot([starts, ends], [_LEVELS[level][0], _LEVELS[reader[0]][0]], color=colour, linewidth=1.1, zorder=1)


def core_operations(layers: Mapping[str, Structure], title: str = "") -> Figure:
    """Multiply–accumulates of the attention core for a query and a key that it sees: scores, and weighted values.

    Parameters
    ----------
    layers : mapping of str to Structure
        The first one is what the others are compared with.
    title : str

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((9, 0.5 * len(layers) + 1.3), title=title)
    where = np.arange(len(layers))
    scores = np.array([layer.n_q * layer.d_k for layer in layers.values()])
    context = np.array([layer.n_q * layer.d_v for layer in layers.values()])
    ax.barh(where, scores, 0.65, color=ORANGE, label="scores Q Kᵀ")
    ax.barh(where, context, 0.65, left=scores, color=GREEN, label="map times values")
    total = scores + context
    for y, macs in enumerate(total):
        change = f"  ({macs / total[0] - 1:+.1%})".replace("-", "−") if macs != total[0] else ""
        note(ax, f"{macs}{change}", (macs, y), fontsize=10)
    ax.set_yticks(where, list(layers), fontsize=10)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.22 * total.max())
    ax.set_xlabel("multiply–accumulates for one query and one key")
    ax.legend(loc="lower right", frameon=False)
    return figure
