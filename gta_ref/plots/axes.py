"""Axes of attention maps and of other grids: cell (i, j) is centred at y = i and x = j; row 0 is at the top."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage

from gta_ref.plots.common import SMALLEST, box, contrast


def map_axes(
    ax: Axes, rows: int, columns: int, names: tuple[str, str] = ("query", "key"), every: int | None = None
) -> None:
    """Make `ax` the axes of an attention map: square cells, one row per query from the top, one column per key.

    Parameters
    ----------
    ax : Axes
    rows, columns : int
    names : (str, str)
        Names of the rows and of the columns.
    every : int, optional
        Number of cells from one tick to the next. Default: the number that gives at most eight ticks.
    """
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_xticks(range(0, columns, every or -(-columns // 8)))
    ax.set_yticks(range(0, rows, every or -(-rows // 8)))
    ax.tick_params(labelsize=SMALLEST)
    ax.set_ylabel(names[0], fontsize=SMALLEST)
    ax.set_xlabel(names[1], fontsize=SMALLEST)


def weights(ax: Axes, map_: np.ndarray) -> AxesImage:
    """Colour the cells of one causal map, (N, N) with rows that sum to 1; cells hidden by the mask stay white."""
    seen = np.where(np.tri(len(map_), dtype=bool), map_, np.nan)
    # exponent 0.4: most entries are weak, and a linear scale would show them all as 0
    return ax.imshow(seen, norm=PowerNorm(0.4, vmin=0, vmax=1), cmap="magma", interpolation="nearest")


def token_axes(ax: Axes, tokens: Sequence[str], inches: float, *, down: bool, across: bool) -> None:
    """Write the tokens of a map beside its rows (`down`) and under its columns (`across`).

    If a panel of `inches` has no room for all of them, only every second or third is written.
    """
    labels = [token_label(token) for token in tokens]
    short = max(map(len, labels)) == 1
    line = SMALLEST if short else 1.1 * SMALLEST  # points from one label to the next
    step = ceil(len(tokens) * line / (72 * inches))
    ticks, labels = range(0, len(tokens), step), labels[::step]
    style: dict[str, Any] = {"fontsize": SMALLEST} | ({"family": "monospace"} if short else {})
    turn = 0 if short else 90
    ax.set_xticks(ticks, labels if across else [], rotation=turn, **style)
    ax.set_yticks(ticks, labels if down else [], **style)
    ax.tick_params(length=0, pad=2)
    ax.set_ylabel("query token" if down else "")
    ax.set_xlabel("key token" if across else "")


def token_label(token: str) -> str:
    """Turn a token into a label: white space on its own becomes signs, and white space around a word is left out."""
    signs = {"\n": "↵", "\t": "→", " ": "·"}
    label = token.strip() or "".join(signs.get(c, "?") for c in token[:4])
    return drawable(label) if label.isprintable() and "\ufffd" not in label else "?"


def drawable(text: str) -> str:
    """Replace each character that the font of the labels does not have with a question mark."""
    return "".join(c if ord(c) in _glyphs() else "?" for c in text)


@lru_cache(maxsize=1)
def _glyphs() -> Collection[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family="monospace"))).get_charmap().keys()


def block(
    ax: Axes,
    corner: Sequence[int],
    shape: Sequence[int] = (1, 1),
    colour: str = "none",
    edge: str = "black",
    **style: Any,
) -> None:
    """Draw a rectangle over `shape` cells from `corner` (row, column); without a colour, draw only its frame."""
    box(ax, corner[1] - 0.5, corner[0] - 0.5, shape[1], shape[0], colour, edge, **style)


def numbers(ax: Axes, values: np.ndarray, form: str) -> None:
    """Write each finite number into its cell in the format `form`, in white where the image under it is dark."""
    image = ax.images[-1].get_array() if ax.images else None
    cells = ax.images[-1].to_rgba(image) if image is not None else None
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = cells is not None and contrast("white", cells[i, j, :3]) > contrast("black", cells[i, j, :3])
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
            ax.text(j, i, form.format(value), fontsize=SMALLEST, **style)
