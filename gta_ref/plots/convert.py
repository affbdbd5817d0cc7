"""The study of conversion: a pretrained GQA model turned into GTA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from gta_ref.plots.common import BLACK, GREY, MECHANISM_COLOURS, WIDTH, ink, panels

_COLOUR = MECHANISM_COLOURS["gta"]
_TICKS = (0, 0.05, 0.1, 0.3, 1, 3)  # nats


def study(found: Mapping[str, Any]) -> Figure:
    """Draw what every point loses, before and after healing, and what sharing costs in each layer alone.

    Parameters
    ----------
    found : mapping
        From :meth:`gta_ref.convert.study.Study.run`.

    Returns
    -------
    Figure
        On the left and in the middle, the loss above the original's on prose and on code, one row per point: a hollow
        mark in closed form, a filled one per healing. On the right, the divergence from the original if one layer alone
        shares its maps.
    """
    points = sorted(found["points"], key=lambda point: (point["cache_elements"], point["maps"], point["name"]))
    title = (
        f"{found['model']} as GTA: what smaller caches and fewer maps cost\n"
        "hollow marks: in closed form; filled marks: healed, one per run"
    )
    figure, axes = panels((WIDTH, 1.6 + 0.32 * len(points)), 1, 3, grid="x", title=title, width_ratios=(3, 3, 2.4))
    prose, code, layers = axes
    for ax, kind in ((prose, "prose"), (code, "code")):
        _losses(ax, points, found["original"]["held_out"][kind]["loss"], kind)
    names = [f"{point['name']}: {point['maps']} maps, cache {point['cache_elements']:g}" for point in points]
    prose.set_yticks(range(len(points)), names)
    code.set_yticks(range(len(points)), [""] * len(points))
    alone = found["sharing"]["divergence"]
    layers.barh(range(len(alone)), alone, color=_COLOUR)
    layers.set_ylim(len(alone) - 0.5, -0.5)
    layers.set_title(f"{found['sharing']['n_q']} maps in one layer", fontsize=10)
    layers.set_ylabel("layer")
    layers.set_xlabel("KL, nats")
    return figure


def _losses(ax: Axes, points: Sequence[Mapping[str, Any]], whole: float, kind: str) -> None:
    largest = 0.1
    for row, point in enumerate(points):
        before = point["held_out"][kind]["loss"] - whole
        after = [healed["held_out"][kind]["loss"] - whole for healed in point["healed"]]
        ax.plot([before, *after], [row] * (1 + len(after)), "-", lw=1, color=GREY, zorder=1)
        ax.plot(before, row, "o", ms=7, mfc="white", mec=ink(_COLOUR))
        ax.plot(after, [row] * len(after), "o", ms=6, mew=0, color=_COLOUR)
        largest = max(largest, before, *after)
    ax.axvline(0, color=BLACK, lw=0.8)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xticks([tick for tick in _TICKS if tick <= largest])
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.02, 1.4 * largest)
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.set_xlabel("nats above the original")
    ax.set_title(f"held-out {kind}", fontsize=10)
