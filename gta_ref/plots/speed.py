"""The figure of ``gta-ref bench core``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gta_ref.plots.common import COLOURS, WIDTH, panels, shared_legend


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
    colour = dict(zip(names, COLOURS, strict=False))
    width = 0.8 / len(names)
    for ax, kind in zip(axes, kinds, strict=True):
        shown = [case for case in cases if case["kind"] == kind]
        for i, name in enumerate(names):
            shift = (i - len(names) / 2 + 0.5) * width
            speed = [case["contestants"].get(name, {}).get("of_ceiling", np.nan) for case in shown]
            ax.bar(np.arange(len(shown)) + shift, speed, width=width, color=colour[name], label=name)
        ax.axhline(1, color="0.5", linewidth=1, linestyle="--")
        ax.set_xticks(range(len(shown)), [case["name"].replace(f"{kind}, ", "") for case in shown], fontsize=8)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ax.set_ylabel(f"{kind}\nof " + ("reading memory" if kind == "decode" else "multiply–adds"))
    shared_legend(figure, axes[0])
    return figure
