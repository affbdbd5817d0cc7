"""Figures of a wrong answer: the student's array, the expected one and the difference."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gta_ref.plots.axes import block, map_axes
from gta_ref.plots.common import COLOURS, ORANGE, SMALLEST, WIDTH, contrast, panels

AXES = {"N_q": "query", "N": "token", "N_k": "key"}


def difference(name: str, letters: str, got: np.ndarray, want: np.ndarray, index: tuple[int, ...]) -> Figure:
    """Three heat maps over the last two axes, at the leading indices of the worst element, which is framed.

    Parameters
    ----------
    name : str
        The array's name.
    letters : str
        The letters of its shape, such as "B, n_q, N_q, N_k".
    got, want : arrays of one shape, at least 2-D
    index : tuple of int
        Index of the worst element.

    Returns
    -------
    Figure
    """
    lead = index[:-2]
    yours, right = got[lead].astype(float), want[lead].astype(float)
    with np.errstate(invalid="ignore"):
        off = np.abs(yours - right)
    rows, columns = yours.shape
    finite = np.concatenate([x[np.isfinite(x)] for x in (yours, right)])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0:  # signed: 0 is white
        low, high = -max(-low, high), max(-low, high)
    same, colours = Normalize(low, high if high > low else low + 1.0), "RdBu_r" if low < 0 else "viridis"
    finite_off = off[np.isfinite(off)]
    largest = float(finite_off.max(initial=0.0))
    shown = (
        (yours, "yours", same, colours),
        (right, "expected", same, colours),
        (off, "|difference|", Normalize(0.0, largest or 1.0), "magma"),
    )
    where = "".join(f"{i}, " for i in lead)
    heading = f"{name}[{where}:, :]" + ("   grey: not a finite number" if not np.isfinite(off).all() else "")
    figure, axes = panels((WIDTH, 3.5), 1, 3, frame="none", title=heading)
    down, across = [AXES.get(letter.strip(), letter.strip()) for letter in letters.split(",")][-2:]
    for ax, (x, title, norm, cmap) in zip(axes, shown, strict=True):
        # infinities would get the colour at the end of the scale
        image = ax.imshow(np.where(np.isfinite(x), x, np.nan), norm=norm, cmap=cmap, interpolation="nearest")
        ax.set_facecolor("0.75")
        map_axes(ax, rows, columns, (down if ax is axes[0] else "", across))
        if not 1 / 3 < rows / columns < 3:  # square cells would leave no room for three panels
            ax.set_aspect("auto")
        ax.set_title(title, fontsize=10)
        edge = "black" if cmap == "RdBu_r" else ORANGE
        block(ax, index[-2:], edge=edge, lw=2.5, clip_on=False, zorder=3)
        figure.colorbar(image, ax=ax, shrink=0.8)
    return figure


def readers(got: np.ndarray, want: np.ndarray) -> Figure:
    """Lines from every output head to what it reads, the student's next to the expected ones; wrong ones are dashed.

    Parameters
    ----------
    got, want : (n_h,)
        For each head, the number of its map, key head or latent head.

    Returns
    -------
    Figure
    """
    figure, axes = panels((min(WIDTH, max(7.0, 0.5 * len(want) + 2)), 3.4), 1, 2, frame="none")
    n = int(max(want.max(initial=0), got.max(initial=0))) + 1
    spots = (np.arange(n) + 0.5) * len(want) / n - 0.5
    for ax, (x, title) in zip(axes, ((got, "yours"), (want, "expected")), strict=True):
        for head, target in enumerate(x):
            if not 0 <= target < n:
                continue
            wrong = target != want[head]
            colour = COLOURS[int(target) % len(COLOURS)]
            ax.plot([head, spots[int(target)]], [1, 0], "--" if wrong else "-", color=colour, lw=1.5, zorder=1)
        ax.scatter(np.arange(len(x)), np.ones(len(x)), s=220, color="white", edgecolor="black", zorder=2)
        ax.scatter(spots, np.zeros(n), s=320, marker="s", color=[COLOURS[i % 7] for i in range(n)], zorder=2)
        for head in range(len(x)):
            ax.text(head, 1, str(head), ha="center", va="center", fontsize=SMALLEST)
        for i, spot in enumerate(spots):
            on_square = max(("white", "black"), key=lambda colour: contrast(colour, COLOURS[i % 7]))
            ax.text(spot, 0, str(i), ha="center", va="center", fontsize=SMALLEST, color=on_square, weight="bold")
        ax.set_title(title)
        ax.set_xlim(-0.8, len(x) - 0.2)
        ax.set_ylim(-0.3, 1.3)
        ax.set_yticks([0, 1], ["what it\nreads", "output\nhead"])
        ax.set_xticks([])
    return figure
