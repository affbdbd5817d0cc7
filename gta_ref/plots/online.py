"""An animation of attention in tiles: the scores in memory, the running maximum and sum, and the output so far.

It is HTML that plays without a kernel and without a network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta_ref.plots.axes import block, map_axes
from gta_ref.plots.common import BLUE, ORANGE, SKY, WIDTH

_SIZE = WIDTH, 4.5


class Step(NamedTuple):
    """One tile of a loop over tiles, with the state of its rows before and after it."""

    rows: np.ndarray  # which queries
    keys: np.ndarray
    scores: np.ndarray  # (rows, keys), −inf where hidden
    before: tuple[np.ndarray, np.ndarray, np.ndarray]  # m (rows,), ℓ (rows,), O (rows, d_v)
    after: tuple[np.ndarray, np.ndarray, np.ndarray]


class _Frame(NamedTuple):
    """A moment of the animation: a step, and how far it has progressed."""

    step: int
    phase: str  # scores, update, finish


def _frames(steps: Sequence[Step]) -> list[_Frame]:
    frames = []
    for i, step in enumerate(steps):
        frames += [_Frame(i, "scores"), _Frame(i, "update")]
        if i + 1 == len(steps) or steps[i + 1].rows[0] != step.rows[0]:
            frames.append(_Frame(i, "finish"))
    return frames


def picture(steps: Sequence[Step], index: int) -> Figure:
    """Draw one frame of the animation of the online softmax: scores, running maxima and sums, and outputs."""
    figure = Figure(figsize=_SIZE)
    _draw(figure, steps, _frames(steps)[index])
    return figure


def animation(steps: Sequence[Step], seconds: float = 1.2, dpi: int = 90) -> str:
    """Animate every tile of a causal map in turn: its scores, the running m and ℓ of its rows, and the output so far.

    Parameters
    ----------
    steps : sequence of Step
        In the order of a loop over query tiles that contains a loop over key tiles.
    seconds : float
        Seconds between two frames.
    dpi : int
        Dots per inch of the frames.

    Returns
    -------
    html : str
        A player that contains all frames. It needs no kernel, no file and no network.
    """
    figure = Figure(figsize=_SIZE, dpi=dpi)

    def draw(frame: _Frame) -> list[Any]:
        figure.clear()
        _draw(figure, steps, frame)
        return []

    frames = _frames(steps)
    with rc_context({"savefig.dpi": dpi}):
        player = FuncAnimation(figure, draw, frames=frames, init_func=list, interval=1000 * seconds)
        return _offline(player.to_jshtml(default_mode="once"))


_ALT = "The online softmax, tile by tile: scores, running maximum and sum of each query, and output so far"

# matplotlib's player loads the signs on its buttons from a font on the network
_SIGNS = {
    "minus": "−",
    "fast-backward": "|◀",
    "step-backward": "◁",
    "play fa-flip-horizontal": "◀",
    "pause": "||",
    "play": "▶",
    "step-forward": "▷",
    "fast-forward": "▶|",
    "plus": "+",
}


def _offline(html: str) -> str:
    start = html.find("<link")
    if start >= 0:
        html = html[:start] + html[html.index(">", start) + 1 :]
    for name, sign in _SIGNS.items():
        html = html.replace(f'<i class="fa fa-{name}"></i>', f"{sign}\ufe0e")  # as text, not as an emoji
    html = re.sub(r"<img(?=[^>]*_anim_img)(?![^>]*\balt=)", f'<img alt="{_ALT}"', html)
    return html.replace("<style>", "<style>\n.animation img { max-width: 100%; height: auto; }", 1)


def _draw(figure: Figure, steps: Sequence[Step], frame: _Frame) -> None:
    step = steps[frame.step]
    length = int(steps[-1].rows[-1]) + 1
    grid = figure.add_gridspec(
        1, 5, width_ratios=(5.2, 2.6, 2.6, 2.2, 2.2), left=0.05, right=0.985, top=0.81, bottom=0.24, wspace=0.28
    )
    map_, maxima, sums, output, result = (figure.add_subplot(grid[0, i]) for i in range(5))
    before, after = step.before, step.before if frame.phase == "scores" else step.after
    _draw_map(map_, steps, frame, length)
    _draw_maxima(maxima, steps, step, frame.phase)
    _draw_sums(sums, steps, step, frame.phase)
    final = np.full((length, before[2].shape[1]), np.nan)
    for other in steps:
        final[other.rows] = other.after[2] / other.after[1][:, None]
    largest = np.abs(final).max()
    seen = np.where(after[1] > 0, after[1], np.nan)[:, None]
    off = np.abs(after[2] / seen - final[step.rows])
    far = "nothing yet" if np.isnan(off).all() else f"at most {off.max():.2f} from z"
    _heat(output, after[2] / seen, largest, step.rows, "output so far\nO / ℓ")
    output.set_xlabel(far, fontsize=9)
    known = final.copy()
    known[step.rows[-1] + 1 if frame.phase == "finish" else step.rows[0] :] = np.nan
    _heat(result, known, largest, np.arange(length), "z, finished\nqueries")
    block(result, (step.rows[0], 0), (len(step.rows), known.shape[1]), lw=1)
    figure.text(0.05, 0.93, _headline(steps, step), fontsize=11, weight="bold")
    figure.text(0.05, 0.025, _caption(step, frame.phase), fontsize=9.5, va="bottom", linespacing=1.4)


def _headline(steps: Sequence[Step], step: Step) -> str:
    size = len(steps[0].rows)
    (first, *_, last), (left, *_, right) = step.rows, step.keys
    return f"queries {first}–{last}, keys {left}–{right}   (tile {first // size}, {left // size})"


def _caption(step: Step, phase: str) -> str:
    (m_old, *_), (m_new, *_) = step.before, step.after
    if phase == "scores":
        return (
            "1. The tile's scores S = Q Kᵀ/√d are computed: the only part of the map in memory.\n"
            "m, ℓ and O still know only the keys before."
        )
    if phase == "update":
        shrunk = int(((m_new > m_old) & np.isfinite(m_old)).sum())
        return (
            "2. m moves up to the largest score yet; ℓ and O shrink by e^(m before − m now); then the tile is added:\n"
            f"ℓ += Σ e^(S − m), O += e^(S − m) V.   Rows that had to shrink: {shrunk} of {len(m_new)}."
        )
    return (
        "3. These queries have seen all their keys: z = O / ℓ and lse = m + ln ℓ.\n"
        "What lies to the right is never computed."
    )


def _draw_map(ax: Axes, steps: Sequence[Step], frame: _Frame, length: int) -> None:
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
        finite = _finite(steps)
        box = step.keys[0] - 0.5, step.keys[-1] + 0.5, step.rows[-1] + 0.5, step.rows[0] - 0.5
        shown = np.where(np.isneginf(step.scores), np.nan, step.scores)
        limits = ax.get_xlim(), ax.get_ylim()
        ax.imshow(shown, cmap="viridis", vmin=finite.min(), vmax=finite.max(), extent=box, zorder=3)
        ax.set(xlim=limits[0], ylim=limits[1])  # which imshow moved to its tile
        block(ax, (step.rows[0], step.keys[0]), step.scores.shape, lw=2, zorder=4)
    ax.set_title("the map: grey is done and forgotten,\nhatched is never computed", fontsize=9)


def _finite(steps: Sequence[Step]) -> np.ndarray:
    """Collect all scores that the mask does not hide."""
    return np.concatenate([step.scores[np.isfinite(step.scores)] for step in steps])


def _draw_maxima(ax: Axes, steps: Sequence[Step], step: Step, phase: str) -> None:
    """Draw m of each row on the axis of the scores, and the tile's scores as small dots."""
    finite = _finite(steps)
    old, new = step.before[0], step.after[0]
    for r in range(len(step.rows)):
        if phase != "finish":
            seen = step.scores[r][np.isfinite(step.scores[r])]
            ax.plot(seen, np.full(len(seen), r), ".", color="0.6", markersize=5)
        if phase == "update" and np.isfinite(old[r]) and new[r] > old[r]:
            ax.plot(old[r], r, "o", color=ORANGE, markerfacecolor="white", markersize=8)
            ax.annotate("", (new[r], r), (old[r], r), arrowprops={"arrowstyle": "->", "color": ORANGE})
        m = old[r] if phase == "scores" else new[r]
        if np.isfinite(m):
            ax.plot(m, r, "o", color=ORANGE, markersize=8)
    ax.set_xlim(finite.min() - 1, finite.max() + 1)
    _row_axis(ax, step)
    ax.set_title("running maximum m\n(dots: the tile's scores)", fontsize=9)
    ax.set_xlabel("score", fontsize=9)


def _draw_sums(ax: Axes, steps: Sequence[Step], step: Step, phase: str) -> None:
    """Draw ℓ of each row: the rest of the old sum, and the part that the tile added."""
    (m_old, old, _), (m_new, new, _) = step.before, step.after
    where = np.arange(len(step.rows))
    if phase == "scores":
        ax.barh(where, old, 0.6, color=BLUE)
    else:
        left = np.where(np.isfinite(m_old), old * np.exp(m_old - m_new), 0.0) if phase == "update" else new
        ax.barh(where, left, 0.6, color=BLUE)
        ax.barh(where, new - left, 0.6, left, color=SKY)
        if phase == "update":
            ax.barh(where, old, 0.6, fill=False, edgecolor="black", linestyle=":", linewidth=1)
    ax.set_xlim(0, 1.05 * max(max(s.after[1].max(), s.before[1].max()) for s in steps))
    _row_axis(ax, step)
    ax.set_title("running sum ℓ\n(dotted: before; light: added)", fontsize=9)
    ax.set_xlabel("in units of $e^m$", fontsize=9)


def _row_axis(ax: Axes, step: Step) -> None:
    ax.set_ylim(len(step.rows) - 0.5, -0.5)
    ax.set_yticks(range(len(step.rows)), step.rows)
    ax.tick_params(labelsize=8, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def _heat(ax: Axes, x: np.ndarray, largest: float, rows: np.ndarray, title: str) -> None:
    """Draw the rows of an output, coloured by sign and size."""
    ax.imshow(x, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    every = max(1, len(rows) // 4)
    ax.set_yticks(range(0, len(rows), every), rows[::every])
    ax.set_xticks([])
    ax.tick_params(labelsize=8, length=2)
    ax.set_title(title, fontsize=9)
