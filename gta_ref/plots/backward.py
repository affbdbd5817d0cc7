"""The backward pass: the flow of gradients, a softmax's Jacobian, errors of gradient checks, and the memory kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import EngFormatter

from gta_ref.plots.axes import numbers
from gta_ref.plots.common import BLUE, ORANGE, SERIES, SMALLEST, THOUSANDS, WIDTH, ink, marks, note, panels, shaded

_LETTER = {
    "x": "X",
    "c": "C",
    "q": "Q",
    "k": "K",
    "scores": "S",
    "map": "A",
    "z": "Z",
    "values": "U",
    "gate": "G",
    "heads": "O",
    "out": "Y",
}


class _Stage(NamedTuple):
    """The place of a stage's box, the stages it is computed from, and its formulas in the forward and the backward."""

    column: float
    row: float
    sources: tuple[str, ...]
    forward: str
    backward: str
    kept: bool


# the backward needs the stages that are kept: Q, K and A for the core, Z for dW_P, X for four weights
_STAGES = {
    "x": _Stage(0, 1.5, (), "", "sum of four", True),
    "q_proj": _Stage(1, 3, ("x",), "X W_Q + b_Q", "turn back", False),
    "k_proj": _Stage(1, 2, ("x",), "X W_K + b_K", "turn back", False),
    "c": _Stage(1, 1, ("x",), "X W_C + b_C", "Σ Aᵀ dZ", True),
    "q": _Stage(2, 3, ("q_proj",), "RoPE", "scale · dS K", True),
    "k": _Stage(2, 2, ("k_proj",), "RoPE", "scale · Σ dSᵀ Q", True),
    "scores": _Stage(3, 2.5, ("q", "k"), "scale · Q Kᵀ", "A ⊙ (dA − D)", False),
    "map": _Stage(4, 2.5, ("scores",), "softmax", "dZ Cᵀ", True),
    "z": _Stage(5, 1.75, ("map", "c"), "A C", "dU W_Pᵀ + slices", True),
    "values": _Stage(6, 1.75, ("z",), "Z W_P + copies", "dO ⊙ G", True),
    "gate": _Stage(6, 0.25, ("x",), "σ(X W_G + b_G)", "dO ⊙ U", True),
    "heads": _Stage(7, 1, ("values", "gate"), "U ⊙ G", "dY W_Oᵀ", True),
    "out": _Stage(8, 1, ("heads",), "O W_O", "given", False),
}
_WIDE, _HIGH = 0.78, 0.5  # a box, in columns and rows


def data_flow(shapes: Mapping[str, tuple[int, ...]]) -> Figure:
    """Draw every stage of a GTA layer as a box with its shape: the forward above, the backward below.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Stage → shape, for x and every stage that ``gta.forward`` traces.

    Returns
    -------
    Figure
    """
    figure, (forward, backward) = panels((WIDTH, 7.4), 2)
    for ax, colour, title in (
        (forward, BLUE, "forward: a box holds stage and shape, the line below it the formula; filled is kept"),
        (backward, ORANGE, "backward: the same boxes from right to left, each with the gradient of its stage"),
    ):
        for name, stage in _STAGES.items():
            for source in stage.sources:
                _arrow(ax, _STAGES[source], stage, colour, reverse=ax is backward)
            is_kept = ax is forward and stage.kept
            symbol = _LETTER.get(name, "")
            label = (f"d_{name}" if ax is backward else name) + (f"   {symbol}" if symbol and ax is forward else "")
            formula = stage.backward if ax is backward else stage.forward
            _box(ax, stage, label, shapes[name], formula, colour, filled=is_kept)
        ax.set_xlim(-0.5, 8.5)
        ax.set_ylim(-0.35, 3.45)
        ax.set_title(title, fontsize=10, loc="left")
        ax.axis("off")
    return figure


def _box(
    ax: Axes, stage: _Stage, label: str, shape: tuple[int, ...], formula: str, colour: str, *, filled: bool
) -> None:
    corner = stage.column - _WIDE / 2, stage.row - _HIGH / 2
    shape_of_box = "round,pad=0,rounding_size=0.06"
    face = shaded(BLUE, 0.85) if filled else "white"
    ax.add_patch(
        FancyBboxPatch(corner, _WIDE, _HIGH, boxstyle=shape_of_box, facecolor=face, edgecolor=colour, zorder=2)
    )
    ax.text(stage.column, stage.row + 0.1, label, ha="center", va="center", fontsize=SMALLEST, weight="bold", zorder=3)
    ax.text(stage.column, stage.row - 0.12, str(shape), ha="center", va="center", fontsize=SMALLEST, zorder=3)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    below = stage.row - 0.29
    style: dict[str, Any] = {"ha": "center", "va": "top", "zorder": 4, "bbox": behind}
    ax.text(stage.column, below, formula, fontsize=SMALLEST, color=ink(colour), **style)


def _arrow(ax: Axes, source: _Stage, target: _Stage, colour: str, *, reverse: bool) -> None:
    start = source.column + _WIDE / 2 + 0.01, source.row
    stop = target.column - _WIDE / 2 - 0.01, target.row
    style = {"color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0, "arrowstyle": "<|-" if reverse else "-|>"}
    ax.annotate("", stop, start, arrowprops=style, zorder=1)


def softmax_jacobian(row: np.ndarray) -> Figure:
    """Draw one row of a map and its Jacobian with respect to the scores, diag(a) − a aᵀ, with the sums of the columns.

    Parameters
    ----------
    row : (n,)
        Weights that sum to 1.

    Returns
    -------
    Figure
    """
    n = len(row)
    jacobian = np.diag(row) - np.outer(row, row)
    figure, (bars, ax) = panels((8, 3.8), 1, 2, width_ratios=(1, 1.1))
    bars.bar(range(n), row, color=BLUE, width=0.7)
    for j, weight in enumerate(row):
        note(bars, f"{weight:.2f}", (j, weight), (0, 3), ha="center", va="bottom")
    bars.set_xticks(range(n))
    bars.set_xlabel("key j")
    bars.set_title("one row of the map, $A_j$", fontsize=10)
    bars.set_ylim(0, 1.15 * row.max())
    largest = np.abs(jacobian).max()
    table = np.vstack([jacobian, np.full(n, np.nan), jacobian.sum(axis=0)])
    image = ax.imshow(table, cmap="PuOr", vmin=-largest, vmax=largest)
    numbers(ax, table, "{:z.2f}")
    ax.set_xticks(range(n))
    ax.set_yticks([*range(n), n + 1], [*map(str, range(n)), "sum"])
    ax.set_xlabel("score l that changes")
    ax.set_ylabel("weight j that responds")
    ax.set_title("its Jacobian, $\\partial A_j / \\partial S_l$", fontsize=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, shrink=0.8)
    return figure


def step_sizes(steps: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the errors of gradients as measured by finite differences, against the size of the step.

    Parameters
    ----------
    steps : sequence of float
    errors : mapping of str to sequence of float
        Gradient → relative errors, one per step.

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((8, 3.6), grid="both")
    for i, ((name, values), colour) in enumerate(zip(errors.items(), SERIES, strict=False)):
        marker, line = marks(i)
        ax.loglog(steps, values, marker=marker, ls=line, color=colour, markersize=4, linewidth=1.5, label=name)
    ax.axvline(1e-3, color="0.7", linewidth=1)
    note(ax, "default", (1e-3, 0.02), xycoords=("data", "axes fraction"), va="bottom")
    ax.set_xlabel("step h of the finite difference")
    ax.set_ylabel("relative error of the gradient")
    ax.legend(frameon=False, fontsize=SMALLEST, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def kept_for_backward(
    lengths: Sequence[int], formula: Mapping[str, Sequence[int]], measured: Mapping[str, Mapping[int, int]]
) -> Figure:
    """Draw the bytes that a layer keeps between forward and backward, against the length.

    Parameters
    ----------
    lengths : sequence of int
    formula : mapping of str to sequence of int
        Engine → bytes, one number per length.
    measured : mapping of str to mapping of length to bytes
        Engine → length → bytes, with the names of `formula`.

    Returns
    -------
    Figure
    """
    figure, (ax,) = panels((8, 3.9), grid="both")
    for i, ((name, values), colour) in enumerate(zip(formula.items(), SERIES, strict=False)):
        marker, line = marks(i)
        ax.loglog(lengths, values, color=colour, ls=line, label=f"{name}, by formula", base=2)
        points = measured.get(name, {})
        ax.plot(list(points), list(points.values()), marker, color=colour, label=f"{name}, held by saved")
        note(ax, EngFormatter("B", places=1)(values[-1]), (lengths[-1], values[-1]))
    ax.set_yscale("log", base=10)
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.yaxis.set_major_formatter(EngFormatter("B"))
    ax.set_xlim(lengths[0] / 1.3, lengths[-1] * 2.6)
    ax.set_xticks(lengths[::2])
    ax.set_xlabel("length N, tokens")
    ax.set_ylabel("kept for the backward")
    ax.legend(frameon=False, fontsize=SMALLEST)
    return figure
