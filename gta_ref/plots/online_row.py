"""The frames of the online softmax for one query: its scores as numbers, and its output as a bar for each feature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta_ref.plots.axes import block
from gta_ref.plots.common import GREEN, SMALLEST, contrast
from gta_ref.plots.online_parts import (
    Frame,
    Step,
    divided,
    draw_maxima,
    draw_sums,
    final,
    finite_scores,
    largest,
    state,
)

_MOST_LETTERS = 72  # that fit into the row


def number(x: float) -> str:
    """Write a number with three digits, or to the nearest whole number, and an infinity as a sign."""
    if np.isinf(x):
        return "∞" if x > 0 else "−∞"
    text = "NaN" if np.isnan(x) else f"{x:,.0f}" if 1e3 <= abs(x) < 1e6 else f"{x:.3g}"
    return text.replace("-", "−")


def draw_row(figure: Figure, steps: Sequence[Step], frame: Frame) -> None:
    """Draw the scores above, and below them m, ℓ and the output so far."""
    grid = figure.add_gridspec(
        2, 3, width_ratios=(6, 2.4, 2.4), height_ratios=(1, 2.6), left=0.06, right=0.985, top=0.8, bottom=0.26,
        wspace=0.14, hspace=0.55,
    )  # fmt: skip
    _draw_scores(figure.add_subplot(grid[0, 0]), steps, frame)
    _draw_output(figure.add_subplot(grid[1, 0]), steps, frame)
    m, total, _ = state(steps[frame.step], frame.phase)
    for column, draw, said in ((1, draw_maxima, f"m = {number(m[0])}"), (2, draw_sums, f"ℓ = {number(total[0])}")):
        ax = figure.add_subplot(grid[:, column])
        draw(ax, steps, frame)
        ax.set_yticks([])
        ax.set_xlabel(said, fontsize=11)


def _draw_scores(ax: Axes, steps: Sequence[Step], frame: Frame) -> None:
    """Draw a cell for each score: grey if it has been read, coloured in the tile, white if it comes later."""
    n = int(steps[-1].keys[-1]) + 1
    finite = finite_scores(steps)
    texts = [number(score) for step in steps for score in step.scores[0]]
    fit = n * max(map(len, texts)) <= _MOST_LETTERS
    for i, step in enumerate(steps):
        done = i < frame.step or frame.phase == "finish"
        block(ax, (0, step.keys[0]), (1, len(step.keys)), "0.85" if done else "white", "0.6", lw=0.8)
        if done:
            continue
        colours = ["0.4"] * len(step.keys)
        if i == frame.step:
            shown = np.where(np.isfinite(step.scores), step.scores, np.nan)
            box = step.keys[0] - 0.5, step.keys[-1] + 0.5, 0.5, -0.5
            image = ax.imshow(
                shown, "viridis", vmin=finite.min(), vmax=finite.max(), extent=box, aspect="auto", zorder=3
            )
            cells = image.to_rgba(np.ma.masked_invalid(shown))[0, :, :3]
            colours = [
                "white" if np.isfinite(score) and contrast("white", cell) > contrast("black", cell) else "black"
                for score, cell in zip(shown[0], cells, strict=True)
            ]
            block(ax, (0, step.keys[0]), (1, len(step.keys)), lw=2, zorder=4)
        for key, colour in zip(step.keys, colours, strict=True):
            if fit:
                ax.text(key, 0, texts[key], ha="center", va="center", fontsize=SMALLEST, color=colour, zorder=5)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(0.5, -0.5)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title("the row of scores (grey: done and forgotten)", fontsize=SMALLEST, loc="left")


def _draw_output(ax: Axes, steps: Sequence[Step], frame: Frame) -> None:
    z, now = final(steps)[0], state(steps[frame.step], frame.phase)
    out = divided(now)[0]
    where = np.arange(len(z))
    ax.bar(where, np.nan_to_num(out), 0.7, color=GREEN)
    ax.bar(where, np.nan_to_num(z), 0.7, fill=False, edgecolor="black", linestyle=":", linewidth=1)
    if np.isnan(out).all():
        said = "NaN" if np.isnan(now[1]).any() else "nothing yet"
        ax.text(0.02, 0.86, said, fontsize=11, transform=ax.transAxes)
    top = 1.08 * largest(np.concatenate([divided(state(step, "update"))[0] for step in steps]))
    ax.set_ylim(-top if min(np.nanmin(x, initial=0.0) for x in (out, z)) < 0 else 0.0, top)
    ax.set_xlim(-0.5, len(z) - 0.5)
    ax.set_xticks(where[:: -(-len(z) // 16)])
    ax.tick_params(labelsize=SMALLEST, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("output so far, O / ℓ (dotted: at the end)", fontsize=SMALLEST, loc="left")
