"""What the animations of the online softmax share: a step of the loop, its frames, and the panels of m and of ℓ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from gta_ref.plots.common import BLUE, ORANGE, SKY, SMALLEST

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # m (rows,), ℓ (rows,), O (rows, d_v)


class Step(NamedTuple):
    """One tile of a loop over tiles, with the state of its rows before and after it."""

    rows: np.ndarray  # which queries
    keys: np.ndarray
    scores: np.ndarray  # (rows, keys), −inf where hidden
    before: State
    after: State


class Frame(NamedTuple):
    """A moment of the animation: a step, and how far it has progressed."""

    step: int
    phase: str  # scores, update, finish


def frames_of(steps: Sequence[Step]) -> list[Frame]:
    """All moments: two for each tile, and one when its rows are finished."""
    frames = []
    for i, step in enumerate(steps):
        frames += [Frame(i, "scores"), Frame(i, "update")]
        if i + 1 == len(steps) or steps[i + 1].rows[0] != step.rows[0]:
            frames.append(Frame(i, "finish"))
    return frames


def state(step: Step, phase: str) -> State:
    """What the rows know: in the phase "scores" that is the state before the tile."""
    return step.before if phase == "scores" else step.after


def divided(now: State) -> np.ndarray:
    """O / ℓ, (rows, d_v); NaN in a row that has seen nothing."""
    _, total, out = now
    return out / np.where(total > 0, total, np.nan)[:, None]


def final(steps: Sequence[Step]) -> np.ndarray:
    """z of all queries, (N, d_v): a later step of a row replaces an earlier one."""
    z = np.full((int(steps[-1].rows[-1]) + 1, steps[0].before[2].shape[1]), np.nan)
    for step in steps:
        z[step.rows] = divided(step.after)
    return z


def largest(x: np.ndarray) -> float:
    """The largest size of a finite number; 1 if that is 0 or there is none."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) or 1.0


def finite_scores(steps: Sequence[Step]) -> np.ndarray:
    """All scores that are finite; 0 if none is."""
    found = np.concatenate([step.scores[np.isfinite(step.scores)] for step in steps])
    return found if len(found) else np.zeros(1)


def draw_maxima(ax: Axes, steps: Sequence[Step], frame: Frame) -> None:
    """Draw m of each row on the axis of the scores, and the tile's scores as small dots."""
    step, phase = steps[frame.step], frame.phase
    finite = finite_scores(steps)
    old, new = step.before[0], step.after[0]
    for r in range(len(step.rows)):
        if phase != "finish":
            seen = step.scores[r][np.isfinite(step.scores[r])]
            ax.plot(seen, np.full(len(seen), r), ".", color="0.6", markersize=5)
        if phase == "update" and np.isfinite(old[r]) and new[r] > old[r]:
            ax.plot(old[r], r, "o", color=ORANGE, markerfacecolor="white", markersize=8)
            ax.annotate("", (new[r], r), (old[r], r), arrowprops={"arrowstyle": "->", "color": ORANGE})
        m = state(step, phase)[0][r]
        if np.isfinite(m):
            ax.plot(m, r, "o", color=ORANGE, markersize=8)
    room = max(1.0, 0.05 * float(np.ptp(finite)))
    ax.set_xlim(finite.min() - room, finite.max() + room)
    _row_axis(ax, step)
    ax.set_title("running maximum m\n(dots: the tile's scores)", fontsize=SMALLEST)
    ax.set_xlabel("score", fontsize=SMALLEST)


def draw_sums(ax: Axes, steps: Sequence[Step], frame: Frame) -> None:
    """Draw ℓ of each row: the rest of the old sum, and the part that the tile added."""
    step, phase = steps[frame.step], frame.phase
    (m_old, old, _), (m_new, new, _) = step.before, step.after
    where = np.arange(len(step.rows))
    if phase == "scores":
        ax.barh(where, old, 0.6, color=BLUE)
    else:
        kept = np.isfinite(m_old)
        shrink = np.exp(np.subtract(m_old, m_new, out=np.full_like(m_new, -np.inf), where=kept))
        left = old * shrink if phase == "update" else new
        ax.barh(where, left, 0.6, color=BLUE)
        ax.barh(where, new - left, 0.6, left, color=SKY)
        if phase == "update":
            ax.barh(where, old, 0.6, fill=False, edgecolor="black", linestyle=":", linewidth=1)
    ax.set_xlim(0, 1.05 * max(largest(s.after[1]) for s in steps))
    _row_axis(ax, step)
    ax.set_title("running sum ℓ\n(dotted: before; light: added)", fontsize=SMALLEST)
    ax.set_xlabel("in units of $e^m$", fontsize=SMALLEST)


def _row_axis(ax: Axes, step: Step) -> None:
    ax.set_ylim(len(step.rows) - 0.5, -0.5)
    ax.set_yticks(range(len(step.rows)), step.rows)
    ax.tick_params(labelsize=SMALLEST, length=2)
    ax.spines[["top", "right"]].set_visible(False)
