"""Every figure. Each function returns a matplotlib Figure and neither shows nor saves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from string import ascii_lowercase
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, LogNorm, PowerNorm
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
    labels = [token_label(tokens[t]) for t in ticks]
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


def drawable(text: str) -> str:
    """The text with a question mark for every character that the fonts of a label lack."""
    return "".join(c if ord(c) in _glyphs() else "?" for c in text)


@lru_cache(maxsize=1)
def _glyphs() -> Collection[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family="monospace"))).get_charmap().keys()


def token_label(token: str) -> str:
    """Make a token a label: white space alone gets signs of its own, in front of a word it is left out."""
    signs = {"\n": "↵", "\t": "→", " ": "·"}
    label = token.strip() or "".join(signs.get(c, "?") for c in token[:4])
    return drawable(label) if label.isprintable() and "\ufffd" not in label else "?"


def speed_up_frontier(
    batches: Sequence[int], lengths: Sequence[int], ratio: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Contours of a ratio of times over batch and length, a panel each.

    Parameters
    ----------
    batches, lengths : sequences of int
    ratio : mapping of str to (batches, lengths)
        NaN where the memory does not suffice.
    title : str

    Returns
    -------
    Figure
    """
    levels = (1.0, 1.5, 2.0, 3.0)
    bands = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    norm = BoundaryNorm(bands, 256, extend="both")
    for ax, (name, values) in zip(grid.ravel(), ratio.items(), strict=True):
        ax.set_facecolor("0.88")
        filled = ax.contourf(lengths, batches, values, levels=bands, cmap="RdYlBu", norm=norm, extend="both")
        lines = ax.contour(lengths, batches, values, levels=levels, colors="black", linewidths=(1, 1, 2, 1))
        ax.clabel(lines, fmt=lambda level: f"{level:g} ×", fontsize=9)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_title(name)
    for ax in grid[-1]:
        ax.set_xlabel("length, tokens")
    for ax in grid[:, 0]:
        ax.set_ylabel("batch, sequences")
    figure.colorbar(filled, ax=grid.ravel().tolist(), label="times as fast", ticks=bands)
    figure.suptitle(f"{title}\ngrey: weights and cache do not fit into the memory".strip())
    return figure


def design_space(choices: Sequence[Any], parameters: int) -> Figure:
    """Cache against attention operations of every choice of sizes; the efficient ones joined and named.

    Parameters
    ----------
    choices : sequence of gta_ref.costs.frontier.Choice
    parameters : int
        Choices with fewer are drawn hollow.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    ax = figure.subplots()
    enough = [c for c in choices if c.parameters >= parameters]
    small = [c for c in choices if c.parameters < parameters]
    ax.scatter(
        [c.cache for c in small],
        [c.attention for c in small],
        s=18,
        facecolors="none",
        edgecolors="0.7",
        label=f"fewer than {parameters / 1e6:.2f} million parameters",
    )
    points = ax.scatter(
        [c.cache for c in enough],
        [c.attention for c in enough],
        c=[c.parameters / 1e6 for c in enough],
        s=28,
        cmap="viridis",
        norm=LogNorm(),
    )
    efficient = sorted((c for c in choices if c.efficient), key=lambda c: c.cache)
    ax.step(
        [c.cache for c in efficient],
        [c.attention for c in efficient],
        "o-",
        where="post",
        color=COLOURS[1],
        markerfacecolor="none",
        markersize=11,
        label="efficient: nothing else has less of both",
    )
    for letter, c in zip(ascii_lowercase, efficient, strict=False):
        ax.annotate(letter, (c.cache, c.attention), (-7, -15), textcoords="offset points", ha="right", weight="bold")
        ax.plot([], [], " ", label=f"{letter}: n_q {c.n_q}, n_k {c.n_k}, n_c {c.n_c}, d_l {c.latent_dim}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlim(left=min(c.cache for c in choices) / 2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_xlabel("cache, elements a token and layer")
    ax.set_ylabel("attention, multiply–accumulates a query and key")
    ax.legend(frameon=False, loc="lower right")
    colours = figure.colorbar(points, label="parameters of the layer, millions")
    colours.ax.yaxis.set_major_formatter("{x:g}")
    colours.ax.yaxis.set_minor_formatter("{x:g}")
    return figure


def core_speed(cases: Sequence[Mapping[str, Any]], machine: str) -> Figure:
    """Speed of the attention core's engines, as a share of what the machine can do.

    Parameters
    ----------
    cases : sequence of mappings
        As :func:`gta_ref.bench.core.measure` returns them.
    machine : str
        Named under the title.

    Returns
    -------
    Figure
    """
    kinds = [kind for kind in ("forward", "forward+backward", "decode") if any(c["kind"] == kind for c in cases)]
    figure = Figure(figsize=(11, 2 + 2.4 * len(kinds)), layout="constrained")
    names = list(dict.fromkeys(name for case in cases for name in case["contestants"]))
    colour = dict(zip(names, COLOURS, strict=False))
    width = 0.8 / len(names)
    for ax, kind in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        shown = [case for case in cases if case["kind"] == kind]
        for i, name in enumerate(names):
            shift = (i - len(names) / 2 + 0.5) * width
            speed = [case["contestants"].get(name, {}).get("of_ceiling", np.nan) for case in shown]
            ax.bar(np.arange(len(shown)) + shift, speed, width=width, color=colour[name], label=name)
        ax.axhline(1, color="0.5", linewidth=1, linestyle="--")
        ax.set_xticks(range(len(shown)), [case["name"].replace(f"{kind}, ", "") for case in shown], fontsize=8)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ax.set_ylabel(f"{kind}\nof " + ("reading memory" if kind == "decode" else "sgemm"))
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"Attention core, useful operations or bytes a second\n{machine}", fontsize=9)
    return figure
