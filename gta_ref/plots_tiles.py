"""Figures of attention in tiles. Each function returns a matplotlib Figure and neither shows nor saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from gta_ref.plots import COLOURS

_SEEN, _PART, _NEVER = "#9DC6E3", "#F7C9A3", "#F5F5F5"  # a tile's colour


def one_row(scores: np.ndarray, tile: int) -> Figure:
    """Scores of one row with the running maximum above them, and below what makes up the running sum.

    Parameters
    ----------
    scores : (N,)
    tile : int
        Scores that are read at a time.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.2, 1))
    starts = range(0, len(scores), tile)
    m = np.array([scores[: j + tile].max() for j in starts])
    for i, j in enumerate(starts):
        part, colour = scores[j : j + tile], COLOURS[i % len(COLOURS)]
        where = np.arange(j, j + len(part))
        top.vlines(where, min(0, scores.min()), part, color=colour, linewidth=2)
        top.plot(where, part, "o", color=colour, markersize=5)
        top.hlines(m[i], j - 0.5, j + tile - 0.5, color="black", linewidth=1.8)
        top.annotate(f"m = {m[i]:.1f}", (j - 0.4, m[i]), (0, 3), textcoords="offset points", fontsize=9)
        base = 0.0
        for before in range(i + 1):
            share = np.exp(scores[before * tile : (before + 1) * tile] - m[i]).sum()
            bottom.bar(
                j + (tile - 1) / 2, share, 0.55 * tile, base, color=COLOURS[before % len(COLOURS)], edgecolor="white"
            )
            base += share
        note = f"ℓ = {base:.2f}"
        if i and m[i] > m[i - 1]:
            note += f"\nold ℓ shrank\nto {np.exp(m[i - 1] - m[i]):.2f} of itself"
        bottom.annotate(
            note, (j + (tile - 1) / 2, base), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9
        )
    top.set_ylabel("score")
    top.set_ylim(top=1.25 * scores.max())
    bottom.set_ylim(0, 2.1 * np.exp(scores - scores.max()).sum())
    bottom.set_ylabel("sum ℓ, in units of $e^m$")
    bottom.set_xlabel("key; a colour is a tile")
    bottom.set_xticks(range(len(scores)))
    for ax in (top, bottom):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def tile_grid(cases: Mapping[str, np.ndarray], tile: int) -> Figure:
    """Which tiles of a map have to be computed, a panel a mask.

    Parameters
    ----------
    cases : mapping of str to (N_q, N_k) booleans
        True where a query sees a key, as ``Mask.to_dense`` returns it.
    tile : int
        Queries and keys of a tile.

    Returns
    -------
    Figure
    """
    tallest = max(v.shape[0] / v.shape[1] for v in cases.values())
    figure = Figure(figsize=(10, 9.4 / len(cases) * tallest + 1.1), layout="constrained")
    for ax, (name, visible) in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases.items(), strict=True):
        n_q, n_k = visible.shape
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
                ax.add_patch(
                    Rectangle((j, i), part.shape[1], part.shape[0], facecolor=colour, edgecolor="white", lw=1.5)
                )
        ax.imshow(masked, cmap="gray", vmin=0, vmax=1, alpha=0.12, extent=(0, n_k, n_q, 0), zorder=3)
        total = sum(counts.values())
        done = counts["whole"] + counts["part"]
        ax.set_title(f"{name}\n{done} of {total} tiles, {counts['part']} of them masked inside", fontsize=9)
        ax.set_xlim(0, n_k)
        ax.set_ylim(n_q, 0)
        ax.set_aspect("equal")
        ax.set_xticks(range(0, n_k + 1, 2 * tile))
        ax.set_yticks(range(0, n_q + 1, 2 * tile))
        ax.tick_params(labelsize=8, length=2)
        ax.set_xlabel("key", fontsize=9)
        ax.spines[:].set_visible(False)
    figure.axes[0].set_ylabel("query", fontsize=9)
    handles = [Rectangle((0, 0), 1, 1, facecolor=c) for c in (_SEEN, _PART, _NEVER)]
    figure.legend(
        handles,
        ["all seen", "partly seen: computed, then masked", "nothing seen: skipped"],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def memory_and_time(
    lengths: Sequence[int], memory: Mapping[str, Sequence[int]], seconds: Mapping[str, Sequence[float]]
) -> Figure:
    """What ways to compute the same attention allocate and how long they take, against the length.

    Parameters
    ----------
    lengths : sequence of int
    memory : mapping of str to sequence of int
        Bytes, one a length; fewer where a way was not run at the longest ones.
    seconds : mapping of str to sequence of float
        Of names in `memory`.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    style = dict(zip(memory, zip(COLOURS, ("o-", "s--", "^:"), strict=False), strict=False))
    for ax, found, label, unit in ((left, memory, "largest allocation", "B"), (right, seconds, "time of one run", "s")):
        for name, values in found.items():
            colour, line = style[name]
            ax.loglog(lengths[: len(values)], values, line, color=colour, label=name, markersize=5)
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_major_formatter(EngFormatter(unit))
        ax.set_xlabel("length N, tokens")
        ax.set_title(label, fontsize=10)
        ax.grid(color="0.92")
        ax.legend(frameon=False, fontsize=9, loc="upper left")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
