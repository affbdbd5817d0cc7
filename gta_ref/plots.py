"""Every figure. Each function returns a matplotlib Figure and neither shows nor saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# a colour-blind safe set (Okabe and Ito, 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def attention_maps(maps: np.ndarray, tokens: Sequence[str], n_heads: int, title: str = "") -> Figure:
    """Heat map of each shared map, with the tokens along both axes.

    Parameters
    ----------
    maps : (n_q, N, N)
        Rows are queries and sum to 1.
    tokens : sequence of N str
    n_heads : int
        Output heads; each panel says which of them its map serves.
    title : str

    Returns
    -------
    Figure
    """
    n_q, length, _ = maps.shape
    columns = min(3, n_q)
    rows = -(-n_q // columns)
    figure = Figure(figsize=(5.2 * columns + 1, 5.2 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # exponent 0.4: most entries are weak, and a linear scale would show them all as 0
    norm = PowerNorm(0.4, vmin=0, vmax=1)
    seen = np.where(np.tri(length, dtype=bool), maps, np.nan)  # what the mask hides stays white
    ticks = np.arange(0, length, max(1, length // 64))
    labels = [_visible(tokens[t]) for t in ticks]
    per_map = n_heads // n_q
    for m, ax in enumerate(grid):
        if m >= n_q:
            ax.remove()
            continue
        image = ax.imshow(seen[m], norm=norm, cmap="magma", interpolation="nearest")
        heads = f"heads {m * per_map}–{(m + 1) * per_map - 1}" if per_map > 1 else f"head {m}"
        ax.set_title(f"map {m}, used by output {heads}")
        ax.set_xticks(ticks, labels, fontsize=6, family="monospace")
        ax.set_yticks(ticks, labels, fontsize=6, family="monospace")
        ax.tick_params(length=0, pad=2)
        if m % columns == 0:
            ax.set_ylabel("query token")
        if m + columns >= n_q:
            ax.set_xlabel("key token")
    figure.colorbar(image, ax=grid[: min(n_q, len(grid))].tolist(), label="attention weight", shrink=0.6, aspect=40)
    if title:
        figure.suptitle(title)
    return figure


def cache_growth(
    bytes_per_token: Mapping[str, int], measured: Mapping[str, Sequence[tuple[int, int]]], title: str = ""
) -> Figure:
    """What a token costs in the cache, and how the cache of a whole model grows with the text.

    Parameters
    ----------
    bytes_per_token : mapping of str to int
        By formula, of the whole model; the last one is the baseline of the ratios.
    measured : mapping of str to sequence of (tokens, bytes)
        Bytes held by real caches while they were filled.
    title : str

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=(1, 1.3))
    names = list(bytes_per_token)
    baseline = bytes_per_token[names[-1]]
    in_bytes = EngFormatter("B")
    context = max(tokens for points in measured.values() for tokens, _ in points)
    for i, name in enumerate(names):
        size = bytes_per_token[name]
        ratio = "" if name == names[-1] else f"   {size / baseline:.3f} ×"
        bars.barh(i, size, color=COLOURS[i], height=0.5)
        bars.annotate(f" {in_bytes(size)}{ratio}", (size, i), va="center")
        lines.plot([0, context], [0, size * context], color=COLOURS[i], label=f"{name}, by formula")
        lines.plot(*zip(*measured[name], strict=True), "o", color=COLOURS[i], label=f"{name}, bytes held")
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.3 * max(bytes_per_token.values()))
    bars.xaxis.set_major_formatter(in_bytes)
    bars.set_xlabel("cache of one token, all layers")
    lines.set_xlim(0, None)
    lines.set_ylim(0, None)
    lines.set_xlabel("tokens in the cache")
    lines.set_ylabel("cache of one sequence, all layers")
    lines.yaxis.set_major_formatter(in_bytes)
    lines.legend(frameon=False)
    for ax in (bars, lines):
        ax.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure


def _visible(token: str) -> str:
    """A token as an axis label: a space and a line's end get a sign of their own."""
    return {" ": "·", "\n": "↵", "\t": "→"}.get(token, token if token.isprintable() else "?")
