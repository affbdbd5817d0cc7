"""Several processes: the ring, who holds which tokens, and the time of a ring by its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from gta_ref.core import Mask
from gta_ref.distributed.shards import LAYOUTS, Shards
from gta_ref.plots.common import BLUE, GREEN, GREY, ORANGE, PINK, box, mechanism_styles, panels

RANK_COLOURS = (BLUE, ORANGE, GREEN, PINK)
_WIDTH = 600 / 72  # inches: 800 pixels, which a page shows without making it smaller
_LINES = ("-", "--", ":", "-.")


def ring_steps(ranks: int = 4) -> Figure:
    """Draw a ring of up to four ranks in each of its steps; a colour stands for the rank whose keys are held.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    Figure
        Without a background, so that it suits a light and a dark page.
    """
    figure, axes = _clear((_WIDTH, 2.5), ranks)
    angle = np.pi / 2 - 2 * np.pi * np.arange(ranks) / ranks
    places = np.stack([1.12 * np.cos(angle), 0.9 * np.sin(angle)], axis=1)
    for step, ax in enumerate(axes):
        ax.set_xlim(-1.7, 1.7)
        ax.set_ylim(-1.5, 1.95)
        ax.set_axis_off()
        ax.text(0, 1.8, f"step {step}", ha="center", va="center", fontsize=11, weight="bold")
        for rank, (x, y) in enumerate(places):
            owner = (rank - step) % ranks
            box(ax, x - 0.52, y - 0.24, 1.04, 0.48, RANK_COLOURS[owner], "none", alpha=0.45)
            ax.text(x, y, f"K$_{owner}$ C$_{owner}$", ha="center", va="center", fontsize=11)
            ax.text(x, y + (0.38 if y > -0.5 else -0.38), f"rank {rank}", ha="center", va="center", fontsize=9)
            if step < ranks - 1:
                _arrow(ax, places[rank], places[(rank + 1) % ranks])
    return figure


def _arrow(ax: Axes, start: np.ndarray, stop: np.ndarray) -> None:
    """Draw a bent arrow from beside one box to beside the next."""
    a, b = start + 0.36 * (stop - start), start + 0.66 * (stop - start)
    bent = FancyArrowPatch(
        tuple(a), tuple(b), connectionstyle="arc3,rad=-0.25", arrowstyle="-|>", mutation_scale=10, color=GREY, lw=1.4
    )
    ax.add_patch(bent)


def layouts(ranks: int = 4) -> Figure:
    """Draw which keys the queries of each rank see with a causal mask, in both layouts, and each rank's share.

    Parameters
    ----------
    ranks : int
        Up to four.

    Returns
    -------
    Figure
        Without a background. A row is a part of the queries, a column a part of the keys.
    """
    figure, axes = _clear((_WIDTH, 3.3), 2)
    parts, each = 2 * ranks, 64  # tokens per part, to count the visible pairs
    length = parts * each
    seen = Mask().to_dense(length, length)
    for ax, layout in zip(axes, LAYOUTS, strict=True):
        shards = Shards(length, ranks, layout)
        ax.set_xlim(-2.6, parts + 3.6)
        ax.set_ylim(parts + 0.4, -1.5)
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.text(parts / 2, -1, layout, ha="center", va="center", fontsize=11, weight="bold")
        ax.text(parts + 0.4, -0.1, "visible pairs", va="center", fontsize=9)
        for rank in range(ranks):
            tokens = shards.tokens(rank)
            for part in np.unique(tokens // each):
                for key in range(part + 1):
                    alpha = 0.35 if key == part else 0.75  # half of the pairs on the diagonal are visible
                    box(ax, key, part, 1, 1, RANK_COLOURS[rank], "none", alpha=alpha)
                ax.text(-0.3, part + 0.5, f"rank {rank}", ha="right", va="center", fontsize=9)
            share = seen[tokens].sum() / seen.sum()
            ax.text(parts + 0.4, 1.1 + 1.2 * rank, f"rank {rank}: {share:.0%}", va="center", fontsize=10)
    return figure


def scaling(
    ranks: Sequence[int], predicted: Mapping[str, Mapping[str, Sequence[float]]], cases: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw predicted times over the number of ranks, and predicted beside measured times of one machine.

    Parameters
    ----------
    ranks : sequence of int
    predicted : mapping of str to mapping of str to sequence of float
        Model → what connects the ranks → seconds for each number of ranks.
    cases : sequence of mappings
        From :func:`gta_ref.bench.distributed.run`: name, ring and predicted.

    Returns
    -------
    Figure
        Without a background.
    """
    figure, (left, right) = _clear((_WIDTH, 3.6), 2, (1.15, 1))
    styles = mechanism_styles(predicted)
    for model, links in predicted.items():
        colour, marker, _ = styles[model]
        for (link, seconds), line in zip(links.items(), _LINES, strict=False):
            ms, label = 1e3 * np.asarray(seconds), f"{model}, {link}"
            left.plot(ranks, ms, color=colour, marker=marker, ms=4, ls=line, lw=1.8, label=label)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(list(ranks)[::2], [f"{n:,}" for n in list(ranks)[::2]])
    left.yaxis.set_major_formatter("{x:g}")
    left.set_xlabel("ranks, one H100 each", fontsize=9.5)
    left.set_title("predicted: 2²⁰ tokens, one layer, ms", fontsize=10, loc="left")
    left.legend(fontsize=9, frameon=False, loc="upper right", labelspacing=0.3)
    left.set_ylim(top=12 * left.get_ylim()[1])  # room for the legend
    for row, case in enumerate(cases):
        right.plot(1e3 * case["predicted"], row, "|", color=GREY, ms=16, mew=2.5)
        right.plot(1e3 * case["ring"], row, "o", color=GREEN, ms=7)
        words = f"{case['name']}: {1e3 * case['ring']:,.0f}, predicted {1e3 * case['predicted']:,.0f}"
        right.text(13, row - 0.34, words, va="center", fontsize=9)
    right.set_xscale("log")
    right.set_xlim(12, 20000)
    right.set_ylim(len(cases) - 0.5, -0.8)
    right.set_yticks([])
    right.xaxis.set_major_formatter("{x:,g}")
    right.set_title("measured: 2 ranks on one machine, ms", fontsize=10, loc="left")
    for ax in (left, right):
        ax.set_facecolor("none")
        ax.spines[:].set_color(GREY)
        ax.tick_params(which="both", color=GREY, labelsize=9)
    right.spines["left"].set_visible(False)
    return figure


def _clear(
    size: tuple[float, float], columns: int, ratios: tuple[float, ...] | None = None
) -> tuple[Figure, list[Axes]]:
    """Begin a figure without a background."""
    figure, axes = panels(size, 1, columns, width_ratios=ratios)
    figure.set_facecolor("none")
    return figure, axes
