"""The figure of ``gta-ref bench e2e``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gta_ref.plots.common import PART_COLOURS, SMALLEST, WIDTH, panels, shared_legend


def pass_times(cases: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]], title: str = "") -> Figure:
    """Draw the seconds of a pass by part, one panel per case: for each model as predicted and as measured.

    Parameters
    ----------
    cases : sequence of mappings
        As :func:`gta_ref.bench.e2e.measure` returns them.
    groups : mapping of str to sequence of str
        Name → the parts that are drawn as one; PART_COLOURS has a colour for a name up to its first comma.
    title : str

    Returns
    -------
    Figure
    """
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    figure, axes = panels((1 + (WIDTH - 1) / 3 * columns, 1.4 + 2.9 * rows), rows, columns, len(cases), title=title)
    for ax, case in zip(axes, cases, strict=True):
        bars = {
            f"{name[:3].upper()}\n{kind}": one[kind]
            for name, one in case["models"].items()
            for kind in ("predicted", "measured")
        }
        bottom = np.zeros(len(bars))
        for group, parts in groups.items():
            height = np.array([sum(bar[part] for part in parts) for bar in bars.values()])
            ax.bar(range(len(bars)), height, bottom=bottom, width=0.75, color=_colour(group), label=group)
            bottom += height
        ax.set_xticks(range(len(bars)), list(bars), fontsize=SMALLEST)
        ax.set_title(case["name"], fontsize=SMALLEST + 1)
        ax.yaxis.set_major_formatter(EngFormatter("s"))
        ax.tick_params(axis="y", labelsize=SMALLEST)
    shared_legend(figure, axes[0], 4)
    return figure


def _colour(group: str) -> str:
    """Find the colour of "copies, Python" under "copies"."""
    return PART_COLOURS[group.partition(",")[0]]
