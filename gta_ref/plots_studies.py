"""Figures of the laboratory's studies."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gta_ref.plots import COLOURS


def study(summary: dict[str, Any]) -> Figure:
    """Loss of every arm: a mark a seed and the mean, over the cache where arms differ in it; beside it, the way down.

    Parameters
    ----------
    summary : dict
        From :func:`gta_ref.lab.summary.summarise`.

    Returns
    -------
    Figure
    """
    arms = summary["arms"]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    sizes = {name: arm["cache_elements"] for name, arm in arms.items()}
    by_cache = len(set(sizes.values())) > 2
    for i, (name, arm) in enumerate(arms.items()):
        colour, marker = COLOURS[i % len(COLOURS)], "os^Dv"[i // len(COLOURS)]
        x = sizes[name] if by_cache else i
        left.plot([x] * len(arm["loss"]), arm["loss"], marker, ms=5, color=colour, alpha=0.45, mew=0)
        left.plot(x, arm["mean"], "_", ms=26, mew=2.5, color=colour)
        left.annotate(
            name, (x, arm["mean"]), (16, 0), textcoords="offset points", va="center", color=colour, fontsize=9
        )
        steps = [int(step) for step in arm["validation"]]
        right.plot(steps, list(arm["validation"].values()), color=colour, marker=marker, ms=3, lw=1.5, label=name)
    if by_cache:
        left.set_xscale("log", base=2)
        ticks = sorted(set(sizes.values()))
        left.set_xticks(ticks, [str(t) for t in ticks])
        left.set_xlabel("cached elements a token and layer")
    else:
        left.set_xticks([])
        left.set_xlim(-0.6, len(arms) + 0.7)  # room for the last name
    left.margins(x=0.14, y=0.15)
    left.set_ylabel("loss on held-out data, nats a token")
    right.set_xlabel("step")
    right.set_ylabel("mean over seeds")
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    figure.suptitle(
        f"{summary['question']}  {len(summary['seeds'])} seeds, {summary['tokens'] / 1e6:.1f} M tokens each"
    )
    return figure
