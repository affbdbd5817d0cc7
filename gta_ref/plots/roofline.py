"""The roofline: how many operations per second each operator of a pass can reach, by its operations per byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gta_ref.costs.hardware import Hardware
from gta_ref.costs.operators import Operator
from gta_ref.plots.common import PART_COLOURS, WIDTH, panels, shared_legend

_COLOURS = {
    "projections": PART_COLOURS["projections"],
    "attention": PART_COLOURS["attention"],
    "decoder": PART_COLOURS["gate and decoder"],
    "gate": PART_COLOURS["gate and decoder"],
    "mlp": PART_COLOURS["MLP"],
}


def roofline(passes: Mapping[str, Mapping[str, Sequence[Operator]]], hardware: Hardware, title: str = "") -> Figure:
    """Draw the operators of each model under the roof of a machine; one panel per pass.

    Operators of one name are drawn as one: operations and bytes are added. Those that are small in every pass (norms,
    residual additions, RoPE, the embedding) are left out.

    Parameters
    ----------
    passes : mapping of str to mapping of str to sequence of Operator
        Pass → model → its operators. The area of a circle grows with the operator's time; those of the first model are
        filled, those of the second are rings.
    hardware : Hardware
    title : str

    Returns
    -------
    Figure
    """
    figure, axes = panels((WIDTH, 4.2), 1, len(passes), title=title, sharey=True)
    ridge = hardware.peak / hardware.bandwidth
    reach = np.array([0.8, ridge, 8e3])
    for ax, (name, models) in zip(axes, passes.items(), strict=True):
        ax.plot(reach, np.minimum(hardware.peak, reach * hardware.bandwidth), color="0.5")
        ax.axvline(ridge, color="0.5", lw=0.8, ls=":")
        times = {model: _times(operators, hardware) for model, operators in models.items()}
        longest = max(seconds for parts in times.values() for _, _, seconds in parts.values())
        for filled, (model, parts) in enumerate(times.items()):
            for part, (intensity, rate, seconds) in sorted(parts.items(), key=lambda entry: -entry[1][2]):
                face = "none" if filled else _COLOURS[part]
                ax.scatter(intensity, rate, 25 + 600 * seconds / longest, fc=face, ec=_COLOURS[part], lw=1.6)
            face = "none" if filled else "0.3"
            ax.scatter([], [], 60, fc=face, ec="0.3", lw=1.6, label=f"{'ring' if filled else 'filled'}: {model}")
        for part in dict.fromkeys(part for parts in times.values() for part in parts):
            if part != "gate":
                label = {"mlp": "MLP", "decoder": "gate and decoder"}.get(part, part)
                ax.scatter([], [], 60, marker="s", color=_COLOURS[part], label=label)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(hardware.bandwidth * 0.6, hardware.peak * 3)
        ax.set_xlabel("operations per byte")
        ax.yaxis.set_major_formatter(EngFormatter())
        ax.set_title(name, fontsize=10, loc="left")
    axes[0].set_ylabel("operations per second")
    shared_legend(figure, axes[0])
    return figure


def _times(operators: Sequence[Operator], hardware: Hardware) -> dict[str, tuple[float, float, float]]:
    """Name → operations per byte, operations per second and seconds."""
    found = {}
    for name in _COLOURS:
        ours = [operator for operator in operators if operator.name == name]
        seconds = sum(max(o.operations / hardware.peak, o.bytes / hardware.bandwidth) for o in ours)
        if seconds:
            work, moved = sum(o.operations for o in ours), sum(o.bytes for o in ours)
            found[name] = work / moved, work / seconds, seconds
    return found
