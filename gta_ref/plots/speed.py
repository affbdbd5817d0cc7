"""The figure of ``gta-ref bench core``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gta_ref.plots.common import SERIES, SMALLEST, WIDTH, panels, shared_legend


def core_speed(cases: Sequence[Mapping[str, Any]], machine: str) -> Figure:
    """Draw the speed of the attention core's engines, as a share of the machine's ceilings.

    Parameters
    ----------
    cases : sequence of mappings
        As :func:`gta_ref.bench.core.measure` returns them.
    machine : str
        Description of the machine, written under the title.

    Returns
    -------
    Figure
    """
    kinds = [kind for kind in ("forward", "forward+backward", "decode") if any(c["kind"] == kind for c in cases)]
    title = f"Attention core, useful operations or bytes per second\n{machine}"
    figure, axes = panels((WIDTH, 2 + 2.4 * len(kinds)), len(kinds), title=title)
    names = list(dict.fromkeys(name for case in cases for name in case["contestants"]))
    colour = dict(zip(names, SERIES, strict=False))
    width = 0.8 / len(names)
    for ax, kind in zip(axes, kinds, strict=True):
        shown = [case for case in cases if case["kind"] == kind]
        for place, case in enumerate(shown):
            speeds = {name: one.get("of_ceiling", np.nan) for name, one in case["contestants"].items()}
            left = place + width * (0.5 - len(speeds) / 2)
            for i, (name, speed) in enumerate(speeds.items()):
                ax.bar(left + i * width, speed, width=width, color=colour[name])
        ax.axhline(1, color="0.5", linewidth=1, linestyle="--")
        ax.set_xticks(range(len(shown)), [case["name"].replace(f"{kind}, ", "") for case in shown], fontsize=SMALLEST)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ax.set_ylabel(f"{kind}\nof " + ("reading memory" if kind == "decode" else "multiply–adds"))
    for name in names:
        axes[0].bar(0, 0, color=colour[name], label=name)  # for the legend alone
    shared_legend(figure, axes[0])
    return figure
