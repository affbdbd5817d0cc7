"""Choosing sizes: differences with their intervals, learning curves with references, what each choice costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gta_ref.lm.train import Run
from gta_ref.plots.axes import block, numbers
from gta_ref.plots.common import BLUE, ORANGE, WIDTH, mechanism_styles, note, panels
from gta_ref.plots.studies import unit_of_loss


def intervals(summary: Mapping[str, Any]) -> Figure:
    """Draw every arm's difference of loss from the baseline: one mark per seed, the mean, and the interval of the mean.

    Parameters
    ----------
    summary : mapping
        From :func:`gta_ref.lab.summary.summarise`, of at least two seeds.

    Returns
    -------
    Figure
        An arm has its mechanism's colour. Its marks are filled if the interval excludes 0, and hollow otherwise.
    """
    baseline = summary["arms"][summary["baseline"]]["loss"]
    arms = {name: arm for name, arm in summary["arms"].items() if name != summary["baseline"]}
    figure, (ax,) = panels((WIDTH, 1.2 + 0.42 * len(arms)), grid="x")
    ax.axvline(0, color="0.3", lw=1)
    styles = mechanism_styles(arms)
    for row, (name, arm) in enumerate(arms.items()):
        colour, marker, _ = styles[name]
        low, high = arm["interval"]
        filled = colour if low > 0 or high < 0 else "white"
        ax.plot(arm["interval"], (row, row), "-", color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        ax.plot(arm["difference"], row, "|", color=colour, ms=15, mew=2.5)
        ax.plot(np.subtract(arm["loss"], baseline), [row] * len(baseline), marker, color=colour, mfc=filled, ms=5)
        note(ax, arm["verdict"], (1, row), xycoords=("axes fraction", "data"))
    ax.set_yticks(range(len(arms)), list(arms))
    ax.set_ylim(len(arms) - 0.4, -0.6)
    unit = unit_of_loss(summary)
    ax.set_xlabel(f"loss − {summary['baseline']}'s, {unit}: seeds, mean, 95 % interval of the mean")
    return figure


def learning_curves(runs: Mapping[str, Run], references: Mapping[str, float]) -> Figure:
    """Draw the learning curves of a few runs, in training and on held-out text, with losses that need no network.

    Parameters
    ----------
    runs : mapping of str to Run
    references : mapping of str to float
        Name → loss, one dashed line per reference.

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((9, 4))
    end = max(len(run.losses) for run in runs.values())
    styles = mechanism_styles(runs)
    for name, run in runs.items():
        colour, marker, line = styles[name]
        trained = range(1, len(run.losses) + 1)
        ax.plot(trained, run.losses, ls=line, color=colour, lw=1.3, alpha=0.8, label=f"{name}, training")
        steps, losses = zip(*run.validation.items(), strict=True)
        ax.plot(steps, losses, marker, color=colour, ms=8, mec="white", label=f"{name}, held out")
    for name, loss in references.items():
        ax.axhline(loss, color="0.45", ls="--", lw=1)
        note(ax, name, (1.02 * end, loss), (0, 3), va="bottom", color="0.3")
    ax.set_xlabel("step")
    ax.set_ylabel("loss, nats per byte")
    ax.set_xlim(0, 1.22 * end)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.9), ncols=2)
    return figure


def cost_maps(
    ratios: Mapping[str, np.ndarray], n_q: Sequence[int], latent_dims: Sequence[int], marked: tuple[int, int]
) -> Figure:
    """Draw ratios to a baseline for every number of maps and width of the latent, with the number in each cell.

    Parameters
    ----------
    ratios : mapping of str to (len(n_q), len(latent_dims))
        Title of a panel → ratio. 1 is white, blue is better and orange worse; "×" in a title means that larger ratios
        are better, otherwise smaller ones are.
    n_q, latent_dims : sequence of int
    marked : (int, int)
        n_q and d_l of the choice that is framed.

    Returns
    -------
    Figure
    """
    shades = LinearSegmentedColormap.from_list("gain", (ORANGE, "white", BLUE))
    figure, axes = panels((WIDTH, 4), 1, len(ratios), frame="none", sharey=True)
    for ax, (title, ratio) in zip(axes, ratios.items(), strict=True):
        gain = np.log2(ratio) if "×" in title else -np.log2(ratio)
        ax.imshow(gain, cmap=shades, vmin=-3, vmax=3, aspect="auto")
        numbers(ax, ratio, "{:.2f}")
        block(ax, (n_q.index(marked[0]), latent_dims.index(marked[1])), lw=2)
        ax.set_xticks(range(len(latent_dims)), [str(d) for d in latent_dims])
        ax.set_yticks(range(len(n_q)), [str(n) for n in n_q])
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("$d_l$")
    axes[0].set_ylabel("$n_q$")
    return figure
