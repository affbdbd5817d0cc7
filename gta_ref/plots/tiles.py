"""Attention in tiles: one row of scores, the tiles of a map, and the memory and time they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gta_ref.plots.axes import block, map_axes
from gta_ref.plots.common import (
    BLUE,
    COLOURS,
    ORANGE,
    SERIES,
    SMALLEST,
    THOUSANDS,
    WIDTH,
    marks,
    note,
    panels,
    shaded,
    shared_legend,
)

_SEEN, _PART, _NEVER = shaded(BLUE, 0.6), shaded(ORANGE, 0.65), "0.96"  # a tile's colour


def one_row(scores: np.ndarray, tile: int) -> Figure:
    """Draw the scores of one row with the running maximum, and below them the parts of the running sum.

    Parameters
    ----------
    scores : (N,)
    tile : int
        Number of scores that are read at a time.

    Returns
    -------
    Figure
    """
    figure, (top, bottom) = panels((9, 4.6), 2, sharex=True, height_ratios=(1.2, 1))
    starts = range(0, len(scores), tile)
    m = np.array([scores[: j + tile].max() for j in starts])
    for i, j in enumerate(starts):
        part, colour = scores[j : j + tile], COLOURS[i % len(COLOURS)]
        where = np.arange(j, j + len(part))
        top.vlines(where, min(0, scores.min()), part, color=colour, linewidth=2)
        top.plot(where, part, "o", color=colour, markersize=5)
        top.hlines(m[i], j - 0.5, j + tile - 0.5, color="black", linewidth=1.8)
        note(top, f"m = {m[i]:.1f}", (j - 0.4, m[i]), (0, 3), va="bottom")
        middle, base = j + (tile - 1) / 2, 0.0
        for before in range(i + 1):
            share = np.exp(scores[before * tile : (before + 1) * tile] - m[i]).sum()
            bottom.bar(middle, share, 0.55 * tile, base, color=COLOURS[before % len(COLOURS)], edgecolor="white")
            base += share
        text = f"ℓ = {base:.2f}"
        if i and m[i] > m[i - 1]:
            text += f"\nold ℓ shrank\nto {np.exp(m[i - 1] - m[i]):.2f} of itself"
        note(bottom, text, (middle, base), (0, 3), ha="center", va="bottom")
    top.set_ylabel("score")
    top.set_ylim(top=1.25 * scores.max())
    bottom.set_ylim(0, 2.1 * np.exp(scores - scores.max()).sum())
    bottom.set_ylabel("sum ℓ, in units of $e^m$")
    bottom.set_xlabel("key; a colour is a tile")
    bottom.set_xticks(range(len(scores)))
    return figure


def tile_grid(cases: Mapping[str, np.ndarray], tile: int) -> Figure:
    """Draw which tiles of a map have to be computed, one panel per mask.

    Parameters
    ----------
    cases : mapping of str to (N_q, N_k) booleans
        True where a query sees a key, as ``Mask.to_dense`` returns it.
    tile : int
        Number of queries, and of keys, in a tile.

    Returns
    -------
    Figure
    """
    tallest = max(v.shape[0] / v.shape[1] for v in cases.values())
    figure, axes = panels((WIDTH, 9.4 / len(cases) * tallest + 1.1), 1, len(cases), frame="none")
    for ax, (name, visible) in zip(axes, cases.items(), strict=True):
        n_q, n_k = visible.shape
        map_axes(ax, n_q, n_k, every=2 * tile)
        counts = {"whole": 0, "part": 0, "skipped": 0}
        masked = np.full(visible.shape, np.nan)
        for i in range(0, n_q, tile):
            for j in range(0, n_k, tile):
                part = visible[i : i + tile, j : j + tile]
                kind = "whole" if part.all() else "part" if part.any() else "skipped"
                counts[kind] += 1
                if kind == "part":
                    masked[i : i + tile, j : j + tile] = np.where(part, np.nan, 0.0)
                colour = {"whole": _SEEN, "part": _PART, "skipped": _NEVER}[kind]
                block(ax, (i, j), part.shape, colour, "white", lw=1.5)
        ax.imshow(masked, cmap="gray", vmin=0, vmax=1, alpha=0.12, zorder=3)
        total = sum(counts.values())
        done = counts["whole"] + counts["part"]
        ax.set_title(f"{name}\n{done} of {total} tiles, {counts['part']} of them masked inside", fontsize=SMALLEST)
    for ax in axes[1:]:
        ax.set_ylabel("")
    meanings = {_SEEN: "all seen", _PART: "partly seen: computed, then masked", _NEVER: "nothing seen: skipped"}
    for colour, label in meanings.items():
        axes[0].bar(0, 0, color=colour, label=label)  # for the legend alone
    shared_legend(figure, axes[0])
    return figure


def memory_and_time(
    lengths: Sequence[int], memory: Mapping[str, Sequence[int]], seconds: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw the memory and the time of several ways to compute the same attention, against the length.

    Parameters
    ----------
    lengths : sequence of int
    memory : mapping of str to sequence of int
        Name → bytes, one number per length; fewer if the longest lengths were left out.
    seconds : mapping of str to sequence of float
        Seconds in the same form; names must be in `memory`.

    Returns
    -------
    Figure
    """
    figure, (left, right) = panels((WIDTH, 3.9), 1, 2, grid="both")
    style = {name: (colour, *marks(i)) for i, (name, colour) in enumerate(zip(memory, SERIES, strict=False))}
    for ax, found, label, unit in ((left, memory, "largest allocation", "B"), (right, seconds, "time of one run", "s")):
        for name, values in found.items():
            colour, marker, line = style[name]
            ax.loglog(lengths[: len(values)], values, marker=marker, ls=line, color=colour, ms=5, label=name)
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths)
        ax.xaxis.set_major_formatter(THOUSANDS)
        ax.yaxis.set_major_formatter(EngFormatter(unit))
        ax.set_xlabel("length N, tokens")
        ax.set_title(label, fontsize=10)
        ax.legend(frameon=False, fontsize=SMALLEST, loc="upper left")
    return figure
