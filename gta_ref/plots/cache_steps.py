"""The KV cache while a text is generated: what each token leaves in it, and what each step reads."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gta_ref.mechanisms.structure import Structure
from gta_ref.plots.common import PART_COLOURS, SMALLEST, WIDTH, panels, shared_legend

_GAP = 0.16  # of a column's width


def cache_steps(layers: Mapping[str, Structure], prompt: int = 4, steps: int = 2, title: str = "") -> Figure:
    """Draw one layer's cache after a prompt and after each of some decoding steps, heights to scale.

    Parameters
    ----------
    layers : mapping of str to Structure
        One row of panels per layer.
    prompt : int
        Tokens in the cache at first.
    steps : int
        Decoding steps, one panel each.
    title : str

    Returns
    -------
    Figure
    """
    tallest = max(layer.cache_elements for layer in layers.values())
    heights = [layer.cache_elements + 0.3 * tallest for layer in layers.values()]
    size = (WIDTH, 0.6 + 1.6 * sum(heights) / tallest)
    figure, axes = panels(size, len(layers), steps + 1, frame="none", title=title, height_ratios=heights)
    for row, (name, layer) in enumerate(layers.items()):
        for step in range(steps + 1):
            ax = axes[row * (steps + 1) + step]
            _cache(ax, layer, prompt + step, new=bool(step))
            ax.set_xlim(-0.3, prompt + steps + 0.3)
            ax.set_ylim(-0.15 * tallest, layer.cache_elements + 0.05 * tallest)
            held = f"{(prompt + step) * layer.cache_elements:,} elements"
            what = f"step {step}: {held}, all read" if step else f"{name}, after the prompt: {held}"
            ax.set_xticks([])
            ax.set_yticks([0, layer.cache_elements] if step == 0 else [])
            ax.set_title(what, fontsize=SMALLEST, loc="left")
    for name, part in (("keys", "keys"), ("values or latents", "values")):
        axes[0].scatter([], [], 60, marker="s", color=PART_COLOURS[part], label=name)
    axes[0].scatter([], [], 60, marker="s", fc="none", ec="black", lw=1.6, label="written in this step")
    shared_legend(figure, axes[0])
    return figure


def _cache(ax: Axes, layer: Structure, n_tokens: int, *, new: bool) -> None:
    """One column per token, keys at the bottom; the newest token's column has a frame."""
    for token in range(n_tokens):
        bottom = 0.0
        for name, (heads, width) in sorted(layer.cached.items(), key=lambda entry: not entry[0].startswith("k")):
            colour = PART_COLOURS["keys" if name.startswith("k") else "values"]
            for _ in range(heads):
                ax.add_patch(Rectangle((token, bottom), 1 - _GAP, width, fc=colour, ec="white", lw=0.6))
                bottom += width
        if new and token == n_tokens - 1:
            ax.add_patch(Rectangle((token, 0), 1 - _GAP, bottom, fill=False, ec="black", lw=1.6))
        ax.text(token + (1 - _GAP) / 2, -8, str(token), ha="center", va="top", fontsize=SMALLEST)
