"""What the figures share: colours, panels, legends, notes, and how a figure is written to a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gta_ref.files import atomic_path
from gta_ref.mechanisms import NAMES

# a colour-blind safe set (Okabe and Ito, 2008), and grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6E6E6E")
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK, GREY = COLOURS

# One colour per mechanism and one per part, the same in every figure. A figure is coloured by mechanism or by part,
# never by both, so the two tables may use one colour twice.
_OWN = {"gta": ORANGE, "gqa": BLUE, "mha": BLACK, "mla": GREEN, "gva": PINK, "gha": YELLOW, "mqa": SKY}
MECHANISM_COLOURS: Mapping[str, str] = _OWN | {
    name: GREY
    for name in NAMES
    if name not in _OWN  # a mechanism that has no colour of its own yet
}
PART_COLOURS: Mapping[str, str] = {
    # of an attention layer
    "keys": BLUE,
    "maps": ORANGE,
    "output heads": GREY,
    "values": GREEN,  # and the latent that GTA and MLA cache
    # of a model's pass
    "attention": YELLOW,
    "projections": BLUE,
    "gate and decoder": ORANGE,
    "MLP": GREEN,
    "head": PINK,  # with or without the embedding
    "elementwise": SKY,  # norms, residual additions, RoPE, activations
    "copies": BLACK,  # and Python between the calls
}
# Series that are neither mechanisms nor parts, such as engines: not the colours of GTA and GQA.
SERIES = (GREEN, PINK, BLACK, SKY, YELLOW)

WIDTH = 10.0  # inches; no figure is wider
# In a window of 820 px or more, the site shows a figure at least 720 px wide. A figure of WIDTH has 960 px of its own,
# so 9 points become 9 px there. No figure has smaller text.
SITE = 720
SMALLEST = 9.0  # points

THOUSANDS = "{x:,.0f}"  # an axis formatter: 8,192


class Style(NamedTuple):
    """How one series is drawn."""

    colour: str
    marker: str
    line: Any  # a line style of matplotlib's


def mechanism_of(label: str) -> str:
    """Find the mechanism that a label begins with: "gqa" for "GQA-1B".

    Without one it is "gta": the laboratory names GTA's sizes by themselves, as in "n_q 2, d_l 32".
    """
    words = re.findall(r"[a-z]+", label.lower())
    return words[0] if words and words[0] in MECHANISM_COLOURS else "gta"


def marks(i: int) -> tuple[str, Any]:
    """Marker and line style of the i-th series; the first 8 have different markers, no two of the first 40 both."""
    dashes = ("-", "--", ":", "-.", (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)))
    return "os^DvPX*"[i % 8], dashes[i % 5]


def mechanism_styles(labels: Iterable[str]) -> dict[str, Style]:
    """Give each label its mechanism's colour, and a marker and a line style that no other label has.

    Parameters
    ----------
    labels : iterable of str
        Each begins with its mechanism's name, as in "GTA-1B" or "gta with a gate".

    Returns
    -------
    dict of str to Style
        The first label of a mechanism has the same marker and line style in every figure.
    """
    mechanisms = {label: mechanism_of(label) for label in labels}
    first = {name: i for i, name in enumerate(MECHANISM_COLOURS) if name in mechanisms.values()}
    taken = set(first.values())
    others = (i for i in count() if i not in taken)
    styles = {}
    for label, mechanism in mechanisms.items():
        i = first.pop(mechanism) if mechanism in first else next(others)
        styles[label] = Style(MECHANISM_COLOURS[mechanism], *marks(i))
    return styles


def shaded(colour: str, shade: float) -> str:
    """Mix a colour with black (`shade` from −1 to 0) or with white (from 0 to 1)."""
    towards = 1.0 if shade > 0 else 0.0
    red, green, blue = (c + abs(shade) * (towards - c) for c in to_rgb(colour))
    return to_hex((red, green, blue))


def contrast(colour: Any, background: Any = "white") -> float:
    """Compute the ratio of two colours' luminances as WCAG 2 defines it: 21 for black on white, 1 for equal ones."""

    def luminance(one: Any) -> float:
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(one))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(colour), luminance(background)))
    return (light + 0.05) / (dark + 0.05)


def ink(colour: str) -> str:
    """Darken a colour as little as text in it needs to be read on white: a contrast of 4.5."""
    return next(dark for dark in (shaded(colour, -i / 100) for i in range(101)) if contrast(dark) >= 4.5)


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
        Number of panels, if the last row is not full.
    frame : {"open", "none", "box"}
        "open": lines on the left and at the bottom; "none": neither lines nor ticks, only the ticks' labels; "box":
        lines all around.
    grid : {"", "x", "y", "both"}
        The axes whose ticks have grid lines.
    title : str
    **options
        Arguments of ``Figure.subplots``, such as sharex and width_ratios.

    Returns
    -------
    figure : Figure
    panels : list of Axes
        Row by row.
    """
    figure = Figure(figsize=size, layout="constrained")
    if title:
        letters = int(10 * size[0])  # characters that fit into a line
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
    options: dict[str, Any] = {"va": "center", "fontsize": SMALLEST} | style
    ax.annotate(text, place, shift, textcoords="offset points", **options)


def box(
    ax: Axes, x: float, y: float, width: float, height: float, colour: str = "none", edge: str = "white", **style: Any
) -> None:
    """Draw a rectangle from its corner of least x and y; without a colour, draw only its frame."""
    style = {"lw": 0.6} | style
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, **style))


def shared_legend(
    figure: Figure,
    ax: Axes,
    columns: int | None = None,
    place: Literal["outside lower center", "outside upper center"] = "outside lower center",
) -> None:
    """Draw one legend with the labels of `ax` for all panels, below or above them, in one row or in columns."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc=place, ncols=columns or len(labels), frameon=False, fontsize=SMALLEST)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole or not at all. An SVG has its text as text, and is the same every time."""
    with atomic_path(path) as temporary:
        if path.suffix == ".svg":
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gta_ref"}):
                figure.savefig(temporary, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(temporary, dpi=150)
