"""The laboratory's studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gta_ref.plots.common import SMALLEST, WIDTH, ink, mechanism_styles, note, panels


def study(summary: Mapping[str, Any]) -> Figure:
    """Draw the loss of every arm, one mark per seed and the mean, and the learning curves on the right.

    Parameters
    ----------
    summary : mapping
        From :func:`gta_ref.lab.summary.summarise`.

    Returns
    -------
    Figure
        On the left, losses against the size of the cache, or side by side if the arms hardly differ in it.
    """
    arms = summary["arms"]
    title = f"{summary['question']}\n{len(summary['seeds'])} seeds, {summary['tokens'] / 1e6:.1f} M tokens each"
    figure, (left, right) = panels((WIDTH, 4.6), 1, 2, grid="y", title=title, width_ratios=(3, 2))
    sizes = {name: arm["cache_elements"] for name, arm in arms.items()}
    by_cache = len(set(sizes.values())) > 2
    where = sizes if by_cache else {name: i for i, name in enumerate(arms)}
    heights = _heights(where, arms, by_cache)
    styles = mechanism_styles(arms)
    for name, arm in arms.items():
        colour, marker, line = styles[name]
        x = where[name]
        left.plot([x] * len(arm["loss"]), arm["loss"], marker, ms=5, color=colour, alpha=0.45, mew=0)
        left.plot(x, arm["mean"], "_", ms=26, mew=2.5, color=colour)
        note(left, name, (x, heights[name]), (16, 0), color=ink(colour))
        steps = [int(step) for step in arm["validation"]]
        right.plot(
            steps, list(arm["validation"].values()), color=colour, marker=marker, ls=line, ms=4, lw=1.5, label=name
        )
    if by_cache:
        left.set_xscale("log", base=2)
        ticks = sorted(set(sizes.values()))
        left.set_xticks(ticks, [str(t) for t in ticks])
        left.set_xlabel("cached elements per token and layer")
    else:
        left.set_xticks([])
        left.set_xlim(-0.6, len(arms) + 0.7)  # room for the last name
    left.margins(x=0.2 if by_cache else 0.14, y=0.15)  # room for the names to the right of their marks
    left.set_ylabel(f"loss on held-out data, {unit_of_loss(summary)}")
    right.set_xlabel("step")
    right.set_ylabel("mean over seeds")
    right.legend(frameon=False, fontsize=SMALLEST)
    return figure


def unit_of_loss(summary: Mapping[str, Any]) -> str:
    """Say what the losses of a study are: of text, whose tokens are bytes, or of the retrieval task's answers."""
    return "nats per answer" if summary["source"].startswith("retrieval") else "nats per byte"


def _heights(where: Mapping[str, float], arms: Mapping[str, Any], by_cache: bool) -> dict[str, float]:
    """Find the heights of the arms' names: at their means, or higher if they would cover another name."""
    losses = [loss for arm in arms.values() for loss in arm["loss"]]
    line = 0.06 * (max(losses) - min(losses))
    x = np.log2(list(where.values())) if by_cache else np.array(list(where.values()))
    left = dict(zip(where, 3.5 * (x - x.min()) / max(np.ptp(x), 1e-9), strict=True))  # inches, about
    right = {name: begins + 0.08 * len(name) for name, begins in left.items()}
    heights: dict[str, float] = {}
    for name in sorted(arms, key=lambda name: arms[name]["mean"]):
        beside = [other for other in heights if left[other] < right[name] and left[name] < right[other]]
        heights[name] = max([arms[name]["mean"], *(heights[other] + line for other in beside)])
    return heights
