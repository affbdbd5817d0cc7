"""An animation of attention in tiles: the scores in memory, the running maximum and sum, and the output so far.

It is HTML that plays without a kernel and without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta_ref.plots import player
from gta_ref.plots.axes import block, map_axes
from gta_ref.plots.common import SMALLEST, WIDTH
from gta_ref.plots.online_parts import (
    Frame,
    Step,
    divided,
    draw_maxima,
    draw_sums,
    final,
    finite_scores,
    frames_of,
    largest,
    state,
)
from gta_ref.plots.online_row import draw_row, number

__all__ = ["Step", "animation", "picture"]

_LABEL = "The online softmax, tile by tile: scores, running maximum and sum of each query, and output so far"


def picture(steps: Sequence[Step], index: int) -> Figure:
    """Draw one frame of the animation of the online softmax: scores, running maxima and sums, and outputs."""
    figure = Figure(figsize=_size(steps))
    _draw(figure, steps, frames_of(steps)[index])
    return figure


def animation(steps: Sequence[Step], seconds: float = 1.2, dpi: int = 90) -> str:
    """Animate every tile of a map in turn: its scores, the running m and ℓ of its rows, and the output so far.

    Parameters
    ----------
    steps : sequence of Step
        In the order of a loop over query tiles that contains a loop over key tiles. If there is only one query, its
        scores are written as numbers, and its output is drawn as bars.
    seconds : float
        Seconds between two frames while it plays.
    dpi : int
        Dots per inch of the frames.

    Returns
    -------
    html : str
        A player that contains all frames, each with a text that says what it shows. It needs no kernel, no file and no
        network.

    Raises
    ------
    ValueError
        If there are no steps.
    """
    if not steps:
        raise ValueError("steps is empty; expected at least one tile")
    frames = [player.Frame(partial(_draw, steps=steps, frame=one), _text(steps, one)) for one in frames_of(steps)]
    return player.player(frames, _size(steps), label=_LABEL, seconds=seconds, dpi=dpi)


def _one_query(steps: Sequence[Step]) -> bool:
    return all(step.rows.tolist() == [0] for step in steps)


def _size(steps: Sequence[Step]) -> tuple[float, float]:
    return WIDTH, 3.9 if _one_query(steps) else 4.5


def _draw(figure: Figure, steps: Sequence[Step], frame: Frame) -> None:
    draw = draw_row if _one_query(steps) else _draw_tiles
    draw(figure, steps, frame)
    figure.text(0.05, 0.93, _headline(steps, frame), fontsize=11, weight="bold")
    figure.text(0.05, 0.025, _caption(steps, frame), fontsize=9.5, va="bottom", linespacing=1.4)


def _text(steps: Sequence[Step], frame: Frame) -> str:
    """A frame in words; for one query with its numbers."""
    numbers = ""
    if _one_query(steps):
        step = steps[frame.step]
        m, total, _ = state(step, frame.phase)
        if frame.phase != "finish":
            numbers = f"scores {', '.join(map(number, step.scores[0]))}; "
        numbers = f": {numbers}m = {number(m[0])}, ℓ = {number(total[0])}"
    return " ".join(f"{_headline(steps, frame)}{numbers}. {_caption(steps, frame)}".split())


def _headline(steps: Sequence[Step], frame: Frame) -> str:
    step = steps[frame.step]
    first, last, left, right = step.rows[0], step.rows[-1], step.keys[0], step.keys[-1]
    if _one_query(steps):
        return f"one query, keys {left}–{right} (tile {frame.step})"
    size = len(steps[0].rows)
    return f"queries {first}–{last}, keys {left}–{right} (tile {first // size}, {left // size})"


def _caption(steps: Sequence[Step], frame: Frame) -> str:
    step = steps[frame.step]
    (m_old, *_), (m_new, total, _) = step.before, step.after
    if frame.phase == "scores":
        return (
            "1. The tile's scores S = Q Kᵀ/√d are computed: the only part of the map in memory.\n"
            "m, ℓ and O still know only the keys before."
        )
    if np.isnan(total).any():
        return (
            "∞ − ∞ has no value: where a score and m, or the old and the new m, are infinities of one sign,\n"
            "ℓ and O become NaN, and stay NaN in every later tile."
        )
    if frame.phase == "update":
        shrunk = int(((m_new > m_old) & np.isfinite(m_old)).sum())
        rows = f"Rows that had to shrink: {shrunk} of {len(m_new)}."
        if _one_query(steps):
            rows = "They had to shrink." if shrunk else "They did not have to shrink."
        return (
            "2. m moves up to the largest score yet; ℓ and O shrink by e^(m before − m now); then the tile is added:\n"
            f"ℓ += Σ e^(S − m), O += e^(S − m) V.   {rows}"
        )
    if _one_query(steps):
        return "3. The query has seen all its keys: z = O / ℓ and lse = m + ln ℓ."
    return (
        "3. These queries have seen all their keys: z = O / ℓ and lse = m + ln ℓ.\n"
        "What lies to the right is never computed."
    )


def _draw_tiles(figure: Figure, steps: Sequence[Step], frame: Frame) -> None:
    step = steps[frame.step]
    length = int(steps[-1].rows[-1]) + 1
    grid = figure.add_gridspec(
        1, 5, width_ratios=(5.2, 2.6, 2.6, 2.2, 2.2), left=0.05, right=0.985, top=0.81, bottom=0.24, wspace=0.28
    )
    map_, maxima, sums, output, result = (figure.add_subplot(grid[0, i]) for i in range(5))
    _draw_map(map_, steps, frame, length)
    draw_maxima(maxima, steps, frame)
    draw_sums(sums, steps, frame)
    z, now = final(steps), divided(state(step, frame.phase))
    off = np.abs(now - z[step.rows])
    far = "nothing yet" if np.isnan(off).all() else f"at most {np.nanmax(off):.2f} from z"
    _heat(output, now, largest(z), step.rows, "output so far\nO / ℓ")
    output.set_xlabel(far, fontsize=SMALLEST)
    known = z.copy()
    known[step.rows[-1] + 1 if frame.phase == "finish" else step.rows[0] :] = np.nan
    _heat(result, known, largest(z), np.arange(length), "z, finished\nqueries")
    block(result, (step.rows[0], 0), (len(step.rows), known.shape[1]), lw=1)


def _draw_map(ax: Axes, steps: Sequence[Step], frame: Frame, length: int) -> None:
    step = steps[frame.step]
    map_axes(ax, length, length, every=len(steps[0].keys))
    ax.set_anchor("N")
    ax.tick_params(length=2)
    for i, other in enumerate(steps):
        done = i < frame.step + (frame.phase == "finish")
        block(ax, (other.rows[0], other.keys[0]), other.scores.shape, "0.85" if done else "white", "0.6", lw=0.8)
        last = other.rows[-1] + 1
        if other.keys[-1] + 1 >= last:  # the last tile of its rows
            block(ax, (other.rows[0], last), (len(other.rows), length - last), "white", "0.85", hatch="///", lw=0)
    if frame.phase != "finish":
        finite = finite_scores(steps)
        box = step.keys[0] - 0.5, step.keys[-1] + 0.5, step.rows[-1] + 0.5, step.rows[0] - 0.5
        shown = np.where(np.isneginf(step.scores), np.nan, step.scores)
        limits = ax.get_xlim(), ax.get_ylim()
        ax.imshow(shown, cmap="viridis", vmin=finite.min(), vmax=finite.max(), extent=box, zorder=3)
        ax.set(xlim=limits[0], ylim=limits[1])  # which imshow moved to its tile
        block(ax, (step.rows[0], step.keys[0]), step.scores.shape, lw=2, zorder=4)
    ax.set_title("the map: grey is done and forgotten,\nhatched is never computed", fontsize=SMALLEST)


def _heat(ax: Axes, x: np.ndarray, size: float, rows: np.ndarray, title: str) -> None:
    """Draw the rows of an output, coloured by sign and size."""
    ax.imshow(x, cmap="PuOr", vmin=-size, vmax=size, aspect="auto", interpolation="nearest")
    every = max(1, len(rows) // 4)
    ax.set_yticks(range(0, len(rows), every), rows[::every])
    ax.set_xticks([])
    ax.tick_params(labelsize=SMALLEST, length=2)
    ax.set_title(title, fontsize=SMALLEST)
