"""The verification kit: successive repairs of an implementation, and errors with their budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gta_ref.plots.axes import block
from gta_ref.plots.common import BLACK, BLUE, ORANGE, SMALLEST, WIDTH, note, panels, shaded
from gta_ref.verify.report import CaseResult
from gta_ref.verify.vectors import Vector

RIGHT = shaded(BLUE, 0.87)


def repairs(results: Mapping[str, CaseResult], title: str = "") -> Figure:
    """Draw the results of one case for successive versions of an implementation.

    Parameters
    ----------
    results : mapping of str to CaseResult
        Version → result, one row per version; all results are of the same case and have findings.
    title : str

    Returns
    -------
    Figure
        Arrays from left to right in the order of computation. An array within its budget is pale; the larger the
        error of the others, the darker they are. The first wrong array is framed, with its cause next to the row if
        the kit recognised it.
    """
    names = [finding.name for finding in next(iter(results.values())).findings]
    ratios = np.full((len(results), len(names)), np.nan)
    for row, result in enumerate(results.values()):
        for finding in result.findings:
            if finding.kind != "ok":
                # as bad as can be where there is no number: an array that is missing, of another shape, not finite
                ratio = np.inf if np.isnan(finding.ratio) else finding.ratio
                ratios[row, names.index(finding.name)] = ratio
    figure, (ax,) = panels((WIDTH, 1.9 + 0.55 * len(results)), frame="none", title=title)
    ax.set_facecolor(RIGHT)  # shows through where a ratio is NaN: all is well
    worst = ratios[np.isfinite(ratios)].max(initial=10.0)
    shown = np.minimum(ratios, worst)
    image = ax.imshow(shown, cmap="YlOrRd", norm=LogNorm(1, worst), aspect="auto", interpolation="nearest")
    for row, result in enumerate(results.values()):
        text = "all within their budgets"
        if result.stage in names:
            block(ax, (row, names.index(result.stage)), lw=2, zorder=3)
            text = f"{result.stage}: {result.cause or 'cause not recognised'}"
        note(ax, fill(text, 33), (1, row), xycoords=("axes fraction", "data"), annotation_clip=False)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=SMALLEST)
    ax.set_yticks(range(len(results)), list(results))
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(results)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    figure.colorbar(image, ax=ax, location="top", shrink=0.5, aspect=40, label="error ÷ budget, where above 1")
    return figure


def errors_and_budgets(answers: Sequence[tuple[Vector, CaseResult]]) -> Figure:
    """Draw the error, the budget and the size of every array of a case, one panel per dtype.

    Parameters
    ----------
    answers : sequence of (Vector, CaseResult)
        A case in one or more dtypes, each with an implementation's result.

    Returns
    -------
    Figure
        All three are relative to the array's largest value, so a result of zeros is at 1.
    """
    names = [finding.name for finding in answers[0][1].findings]
    figure, axes = panels((WIDTH, 1.2 + 2.7 * len(answers)), len(answers), sharex=True)
    for ax, (vector, result) in zip(axes, answers, strict=True):
        sizes = {name: np.abs(x[np.isfinite(x)]).max() for name, x in vector.expected.items()}
        budget = np.array([vector.budgets[name] / sizes[name] for name in names])
        error = np.array([f.ratio for f in result.findings]) * budget
        places = np.arange(len(names))
        ax.axhline(1, color=ORANGE, linewidth=1.5, label="a result of zeros")
        ax.vlines(places, budget, 1, color="0.9", linewidth=6)
        ax.plot(places, budget, "_", color=BLUE, markersize=13, markeredgewidth=2.5, label="budget")
        shown = error > 0
        ax.plot(places[shown], error[shown], "o", color=BLACK, markersize=4, label="error of this implementation")
        ax.set_yscale("log")
        ax.set_ylim(min(error[shown].min(), budget.min()) / 3, 5)
        ax.set_ylabel(f"{vector.dtype}\nrelative to the largest value")
    axes[0].legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=SMALLEST)
    axes[-1].set_xlim(-0.7, len(names) - 0.3)
    return figure
