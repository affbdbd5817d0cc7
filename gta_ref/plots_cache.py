"""Figures of the cache's accounting: the family side by side, what fits into a memory, where a pass spends its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gta_ref.costs.roofline import Estimate
from gta_ref.mechanisms.structure import Structure
from gta_ref.plots import COLOURS

# parts of a pass that are drawn as one
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "projections": ("projections", "rope"),
    "gate and decoder": ("gate", "decoder"),
    "MLP": ("mlp",),
    "head and embedding": ("head", "embedding"),
    "norms and residual adds": ("norm", "residual"),
}


def family(structures: Mapping[str, Structure]) -> Figure:
    """Cache, attention operations and parameters of several attention layers, a bar each.

    Parameters
    ----------
    structures : mapping of str to Structure

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10, 1 + 0.42 * len(structures)), layout="constrained")
    cache, attention, parameters = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(structures))
    for row, s in zip(rows, structures.values(), strict=True):
        left = 0
        for name, (heads, width) in sorted(s.cached.items(), key=lambda entry: not entry[0].startswith("k")):
            kind, colour = ("keys", COLOURS[5]) if name.startswith("k") else ("values or latent", COLOURS[0])
            cache.barh(row, heads * width, left=left, height=0.6, color=colour, label=kind if row == 0 else None)
            left += heads * width
    one_each: dict[Any, list[float]] = {
        cache: [s.cache_elements for s in structures.values()],
        attention: [s.attention_macs for s in structures.values()],
        parameters: [s.parameters / 1e6 for s in structures.values()],
    }
    attention.barh(rows, one_each[attention], height=0.6, color=COLOURS[1])
    parameters.barh(rows, one_each[parameters], height=0.6, color="0.6")
    for ax, values in one_each.items():
        for row, value in zip(rows, values, strict=True):
            ax.annotate(f"{value:,.2f}" if ax is parameters else f"{value:,}", (value, row), (4, 0), **_BESIDE)
        ax.set_xlim(0, 1.3 * max(values))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="x", labelsize=8)
    cache.set_yticks(rows, list(structures))
    cache.invert_yaxis()
    cache.legend(frameon=False, fontsize=8.5, loc="lower right")
    cache.set_xlabel("cached elements\nfor a token")
    attention.set_xlabel("attention, multiply–accumulates\nfor a query and a key")
    parameters.set_xlabel("parameters of the layer,\nmillions")
    return figure


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}


def what_fits(
    contexts: Sequence[int], batches: Mapping[str, Mapping[str, Sequence[int]]], trained: int | None = None
) -> Figure:
    """How many sequences fit into a memory, over their length; a panel a machine, a line a model.

    Parameters
    ----------
    contexts : sequence of int
    batches : mapping of str to mapping of str to sequence of int
        Machine → model → sequences that fit at each context.
    trained : int, optional
        The context of training, marked.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for ax, (machine, models) in zip(axes, batches.items(), strict=True):
        for colour, (name, counts) in zip(COLOURS, models.items(), strict=False):
            shown = [(n, count) for n, count in zip(contexts, counts, strict=True) if count]
            ax.plot(*zip(*shown, strict=True), color=colour, lw=2, label=name)
        if trained is not None:
            ax.axvline(trained, color="0.6", ls="--", lw=1)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks([n for n in contexts if n.bit_length() % 2], minor=False)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:g}k")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_title(machine, fontsize=10)
        ax.set_xlabel("context, tokens (k = 1024)")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("sequences that fit")
    axes[-1].legend(frameon=False)
    return figure


def time_parts(passes: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Where the time of a pass goes by the roofline: a panel a pass, a bar a model, a colour a part.

    Parameters
    ----------
    passes : mapping of str to mapping of str to Estimate
        Pass → model → its estimate. The title gives the last model's time over the first's.

    Returns
    -------
    Figure
    """
    rows = -(-len(passes) // 2)
    figure = Figure(figsize=(10, 0.7 + 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, (title, models) in zip(grid, passes.items(), strict=False):
        for row, estimate in enumerate(models.values()):
            left = 0.0
            for colour, (group, parts) in zip((*COLOURS[1:6], "0.5"), GROUPS.items(), strict=True):
                ms = 1e3 * sum(estimate.parts.get(part, 0.0) for part in parts)
                ax.barh(row, ms, left=left, height=0.62, color=colour, label=group if row == 0 else None)
                left += ms
            ax.annotate(f"{left:.3g} ms", (left, row), (4, 0), **_BESIDE)
        ax.set_yticks(range(len(models)), list(models))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.18e3 * max(estimate.seconds for estimate in models.values()))
        ax.xaxis.set_major_formatter("{x:g} ms")
        ax.tick_params(axis="x", labelsize=8)
        first, *_, last = models.values()
        ax.set_title(f"{title}: {last.seconds / first.seconds:.2f} ×", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure
