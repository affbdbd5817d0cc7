"""What the figures share: colours, panels, legends, notes, and how a figure is written to a file."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gta_ref.files import atomic_path

# a colour-blind safe set (Okabe and Ito, 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK = COLOURS
WIDTH = 10.0  # inches; no figure is wider

THOUSANDS = "{x:,.0f}"  # an axis formatter: 8,192


def panels(
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    n: int | None = None,
    *,
    frame: Literal["open", "none", "box"] = "open",
    grid: Literal["", "x", "y", "both"] = "",
    title: str = "",
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Begin a figure.

    Parameters
    ----------
    size : (float, float)
        Inches.
    rows, columns : int
    n : int, optional
        Panels that are wanted; further ones in the last row are left out.
    frame : {"open", "none", "box"}
        Lines on the left and at the bottom; none, and no ticks either (their labels stay); or all around.
    grid : {"", "x", "y", "both"}
        Grid lines at the ticks of these axes.
    title : str
    **options
        Of ``Figure.subplots``: sharex, width_ratios, and so on.

    Returns
    -------
    figure : Figure
    panels : list of Axes
        Row by row.
    """
    figure = Figure(figsize=size, layout="constrained")
    if title:
        letters = int(10 * size[0])  # that fit into a line
        figure.suptitle("\n".join(fill(line, letters) for line in title.splitlines()), fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for ax in axes[n:] if n is not None else ():
        ax.remove()
    for ax in axes[:n]:
        if frame == "open":
            ax.spines[["top", "right"]].set_visible(False)
        elif frame == "none":
            ax.spines[:].set_visible(False)
            ax.tick_params(which="both", length=0)
        if grid:
            ax.grid(axis=grid, color="0.92")
    return figure, axes[:n]


def note(ax: Axes, text: str, place: tuple[float, float], shift: tuple[float, float] = (4, 0), **style: Any) -> None:
    """Write `text` beside a point of the axes, `shift` points away from it."""
    options: dict[str, Any] = {"va": "center", "fontsize": 9} | style
    ax.annotate(text, place, shift, textcoords="offset points", **options)


def box(
    ax: Axes, x: float, y: float, width: float, height: float, colour: str = "none", edge: str = "white", **style: Any
) -> None:
    """Draw a rectangle from its corner of least x and y; without a colour it is a frame."""
    style = {"lw": 0.6} | style
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, **style))


def shared_legend(
    figure: Figure,
    ax: Axes,
    columns: int | None = None,
    place: Literal["outside lower center", "outside upper center"] = "outside lower center",
) -> None:
    """One legend for all panels, below or above them, of what `ax` names; in one row, or in so many columns."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc=place, ncols=columns or len(labels), frameon=False, fontsize=9)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
