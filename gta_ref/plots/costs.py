"""The cost model: where a pass spends its time, when GTA is faster, and what every choice of sizes costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from string import ascii_lowercase

import numpy as np
from matplotlib.colors import BoundaryNorm, LogNorm
from matplotlib.figure import Figure

from gta_ref.costs.frontier import Choice
from gta_ref.costs.roofline import Estimate
from gta_ref.mechanisms.structure import Structure
from gta_ref.plots.common import (
    PART_COLOURS,
    SMALLEST,
    THOUSANDS,
    WIDTH,
    ink,
    mechanism_styles,
    note,
    panels,
    shared_legend,
)

# parts of a pass that are drawn as one, under a name and the key of its colour
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "projections": ("projections", "rope"),
    "gate and decoder": ("gate", "decoder"),
    "MLP": ("mlp",),
    "head and embedding": ("head", "embedding"),
    "norms and residual adds": ("norm", "residual"),
}
_COLOUR_OF = {"head and embedding": "head", "norms and residual adds": "elementwise"}


def time_parts(passes: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Draw where the time of a pass goes by the roofline: one panel per pass, one bar per model, one colour per part.

    Parameters
    ----------
    passes : mapping of str to mapping of str to Estimate
        Pass → model → its estimate. A panel's title gives the last model's time divided by the first's.

    Returns
    -------
    Figure
    """
    rows = -(-len(passes) // 2)
    figure, axes = panels((WIDTH, 0.7 + 1.7 * rows), rows, 2, len(passes))
    for ax, (title, models) in zip(axes, passes.items(), strict=True):
        for row, estimate in enumerate(models.values()):
            left = 0.0
            for group, parts in GROUPS.items():
                colour = PART_COLOURS[_COLOUR_OF.get(group, group)]
                ms = 1e3 * sum(estimate.parts.get(part, 0.0) for part in parts)
                ax.barh(row, ms, left=left, height=0.62, color=colour, label=group if row == 0 else None)
                left += ms
            note(ax, f"{left:.3g} ms", (left, row), fontsize=SMALLEST)
        ax.set_yticks(range(len(models)), list(models))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.18e3 * max(estimate.seconds for estimate in models.values()))
        ax.xaxis.set_major_formatter("{x:g} ms")
        ax.locator_params(axis="x", nbins=5)
        ax.tick_params(axis="x", labelsize=SMALLEST)
        first, *_, last = models.values()
        ax.set_title(f"{title}: {last.seconds / first.seconds:.2f} ×", fontsize=10, loc="left")
    shared_legend(figure, axes[0])
    return figure


def speed_up_frontier(
    batches: Sequence[int], lengths: Sequence[int], ratio: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Draw contours of a ratio of times over batch and length, one panel per ratio.

    Parameters
    ----------
    batches, lengths : sequences of int
    ratio : mapping of str to (batches, lengths)
        Title of a panel → ratio; NaN where the memory does not suffice.
    title : str

    Returns
    -------
    Figure
    """
    levels = (1.0, 1.5, 2.0, 3.0)
    bands = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
    title = f"{title}\ngrey: weights and cache do not fit into the memory".strip()
    figure, axes = panels((WIDTH, 7.3), 2, 2, frame="box", title=title, sharex=True, sharey=True)
    norm = BoundaryNorm(bands, 256, extend="both")
    for ax, (name, values) in zip(axes, ratio.items(), strict=True):
        ax.set_facecolor("0.88")
        filled = ax.contourf(lengths, batches, values, levels=bands, cmap="RdYlBu", norm=norm, extend="both")
        lines = ax.contour(lengths, batches, values, levels=levels, colors="black", linewidths=(1, 1, 2, 1))
        ax.clabel(lines, fmt=lambda level: f"{level:g} ×", fontsize=SMALLEST)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.xaxis.set_major_formatter(THOUSANDS)
        ax.yaxis.set_major_formatter(THOUSANDS)
        ax.set_title(name)
    for ax in axes[2:]:
        ax.set_xlabel("length, tokens")
    for ax in axes[::2]:
        ax.set_ylabel("batch, sequences")
    figure.colorbar(filled, ax=axes, label="times as fast", ticks=bands)
    return figure


def design_space(choices: Sequence[Choice], parameters: int, marked: Mapping[str, Structure] | None = None) -> Figure:
    """Draw the cache against the attention operations of every choice of sizes; efficient ones are joined and named.

    Parameters
    ----------
    choices : sequence of Choice
    parameters : int
        Choices with fewer parameters are drawn hollow.
    marked : mapping of str to Structure, optional
        Layers that are marked with their names, such as "GTA-1B"; they need not be among the choices.

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((9, 6), frame="box")
    enough = [c for c in choices if c.parameters >= parameters]
    small = [c for c in choices if c.parameters < parameters]
    label = f"fewer than {parameters / 1e6:.2f} million parameters"
    ax.scatter(*_places(small), s=18, facecolors="none", edgecolors="0.7", label=label)
    millions = [c.parameters / 1e6 for c in enough]
    points = ax.scatter(*_places(enough), c=millions, s=28, cmap="viridis", norm=LogNorm())
    efficient = sorted((c for c in choices if c.efficient), key=lambda c: c.cache)
    label = "efficient: nothing else has less of both"
    ax.step(*_places(efficient), "o-", where="post", color="0.3", mfc="none", ms=11, label=label)
    for letter, c in zip(ascii_lowercase, efficient, strict=False):
        ax.plot([], [], " ", label=f"{letter}: n_q {c.n_q}, n_k {c.n_k}, n_c {c.n_c}, d_l {c.latent_dim}")
    for letters, c in _names(efficient):
        note(ax, letters, (c.cache, c.attention), (-7, -12), ha="right", weight="bold", fontsize=10)
    marked = marked or {}
    for (name, layer), (colour, marker, _) in zip(marked.items(), mechanism_styles(marked).values(), strict=True):
        place = layer.cache_elements, layer.attention_macs
        ax.plot(*place, marker, color=colour, ms=12, mec="white", mew=1.5, zorder=3)
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
        note(ax, name, place, (8, 13), weight="bold", fontsize=10, color=ink(colour), bbox=behind, zorder=4)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlim(left=min(c.cache for c in choices) / 2)
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.yaxis.set_major_formatter(THOUSANDS)
    ax.set_xlabel("cache, elements per token and layer")
    ax.set_ylabel("attention, multiply–accumulates per query and key")
    ax.legend(frameon=False, loc="lower right")
    colours = figure.colorbar(points, label="parameters of the layer, millions")
    colours.ax.yaxis.set_major_formatter("{x:g}")
    colours.ax.yaxis.set_minor_formatter("{x:g}")
    return figure


def _places(choices: Sequence[Choice]) -> tuple[list[int], list[int]]:
    return [c.cache for c in choices], [c.attention for c in choices]


def _names(choices: Sequence[Choice]) -> list[tuple[str, Choice]]:
    """Find letters for the choices; choices that would cover each other share one text, at the first of them."""
    names: list[tuple[str, Choice]] = []
    for letter, c in zip(ascii_lowercase, choices, strict=False):
        letters, near = names[-1] if names else ("", c)
        octaves = max(abs(log2(c.cache / near.cache)), abs(log2(c.attention / near.attention)))
        if letters and octaves < 0.2:
            names[-1] = f"{letters}, {letter}", near
        else:
            names.append((letter, c))
    return names
