"""Latent values: Eq. 7 beside Eq. 8, the rank of the heads' outputs, the residual's weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from gta_ref.plots.common import PART_COLOURS, SERIES, WIDTH, box, marks, note, panels, shared_legend


def two_orders(n_tokens: int, d_l: int, width: int) -> Figure:
    """Draw Eq. 7 and Eq. 8 for one query and one map: which arrays span all past tokens, and which are one row.

    Parameters
    ----------
    n_tokens : int
        Past tokens, for the numbers under the arrays; eight rows are drawn.
    d_l : int
        Width of the latent.
    width : int
        (n_h/n_q)·d_h, the width of the output heads that share the map.

    Returns
    -------
    Figure
    """
    narrow, wide = PART_COLOURS["values"], PART_COLOURS["output heads"]
    # an array: rows and columns drawn, elements, colour, its name, and the step that leads to it
    latent = (8, 2, n_tokens * d_l, narrow, "$C$", "")
    out = (1, 4, width, wide, "$O$", "")
    ways = {
        "Eq. 7: decode, gate, then sum": (
            latent,
            (8, 4, n_tokens * width, wide, "$C\\,W_P$", "· $W_P$"),
            (8, 4, n_tokens * width, wide, "$V(t, \\cdot)$", "⊙ gate of t"),
            (*out[:-1], "Σ over s"),
        ),
        "Eq. 8: sum, then decode and gate": (
            latent,
            (1, 2, d_l, narrow, "$Z$", "Σ over s"),
            (1, 4, width, wide, "$Z\\,W_P$", "· $W_P$"),
            (*out[:-1], "⊙ gate of t"),
        ),
    }
    figure, axes = panels((WIDTH, 5.4), 2)
    for ax, (title, arrays) in zip(axes, ways.items(), strict=True):
        for i, (rows, columns, elements, colour, name, step) in enumerate(arrays):
            x, note = 6.2 * i, ""
            if i == 0:
                note = "\nin the cache"
            elif "V(" in name:
                note = "\nanew for every query"
            for row, column in np.ndindex(rows, columns):
                left, bottom = x + 0.7 * (column - columns / 2), 0.42 * (rows / 2 - row - 1)
                box(ax, left, bottom, 0.7, 0.42, colour, alpha=0.45 if i else 0.75, lw=1.2)
            ax.text(x, 2.0, name, ha="center", fontsize=11)
            ax.text(x, -1.9, f"{elements:,} numbers{note}", ha="center", va="top", fontsize=9, color="0.3")
            if step:
                arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (x - 1.75, 0), (x - 4.5, 0), arrowprops=arrow)
                ax.text(x - 3.1, 0.18, step, ha="center", fontsize=10, color="0.2")
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_xlim(-2, 21)
        ax.set_ylim(-3.2, 2.6)
        ax.set_axis_off()
    return figure


def spectra_and_strength(
    spectra: Mapping[str, np.ndarray], strengths: Sequence[float], ranks: Mapping[str, Sequence[float]], d_l: int
) -> Figure:
    """Draw the singular values of one map's output heads with each gate, and their effective rank against its strength.

    Parameters
    ----------
    spectra : mapping of str to (values,)
        Gate → singular values, largest first.
    strengths : sequence of float
        Factors on the gate's input.
    ranks : mapping of str to sequence of float
        Gate → effective rank at each strength.
    d_l : int
        Width of the latent: the largest possible rank without a gate.

    Returns
    -------
    Figure
    """
    figure, (left, right) = panels((WIDTH, 4.2), 1, 2)
    styles = {name: (colour, *marks(i)) for i, (name, colour) in enumerate(zip(spectra, SERIES, strict=False))}
    for name, values in spectra.items():
        shown = values[values > 1e-9 * values[0]] / values[0]
        label = "no gate" if name == "none" else name
        colour, marker, line = styles[name]
        left.plot(np.arange(1, len(shown) + 1), shown, color=colour, ls=line, marker=marker, ms=3, label=label)
    left.set_yscale("log")
    left.set_xlabel("number of the singular value")
    left.set_ylabel("singular value divided by the largest")
    for name, over_strengths in ranks.items():
        colour, marker, line = styles[name]
        right.plot(strengths, over_strengths, marker, ls=line, ms=4, color=colour, label=name)
    right.set_xscale("log", base=2)
    right.set_xticks(strengths[::2], [f"{s:g}" for s in strengths[::2]])
    right.set_xlabel("factor on the gate's input")
    right.set_ylabel("effective rank of the heads")
    right.set_ylim(0, None)
    left.axvline(d_l, color="0.5", ls="--", lw=1)
    note(left, f"d_l = {d_l}", (d_l, 1), (4, -3), color="0.35")
    right.axhline(d_l, color="0.5", ls="--", lw=1)
    note(right, f"d_l = {d_l}", (strengths[0], d_l), (0, 3), va="bottom", color="0.35")
    shared_legend(figure, left, place="outside upper center")
    return figure


def decoder_weights(weights: Mapping[str, np.ndarray], head_dim: int) -> Figure:
    """Draw heat maps of one map's decoder, in several forms, with lines between the heads.

    Parameters
    ----------
    weights : mapping of str to (d_l, width)
        Name → weight; all share one colour scale.
    head_dim : int

    Returns
    -------
    Figure
    """
    figure, axes = panels((WIDTH, 1.2 + 2.2 * len(weights)), len(weights), frame="box", sharex=True)
    largest = max(float(np.abs(w).max()) for w in weights.values())
    for ax, (name, w) in zip(axes, weights.items(), strict=True):
        image = ax.imshow(w, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        for border in range(head_dim, w.shape[1], head_dim):
            ax.axvline(border - 0.5, color="0.3", lw=1)
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_ylabel("latent feature")
    heads = range(weights[name].shape[1] // head_dim)
    axes[-1].set_xticks([(i + 0.5) * head_dim - 0.5 for i in heads], [f"head {i}" for i in heads])
    axes[-1].tick_params(axis="x", length=0)
    figure.colorbar(image, ax=axes, label="weight")
    return figure
