"""Figures of attention maps and of their likeness. Each function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gta_ref.lm.head_clusters import Clusters
from gta_ref.lm.head_maps import VIEWS, Comparison, Layer, between_heads
from gta_ref.plots import COLOURS, token_label

_MOST_PANELS = 36


def head_similarity(layers: Sequence[Layer], n_k: int, title: str = "") -> Figure:
    """Cosine of every two heads, a panel a layer: above the diagonal with all keys, below it without sinks.

    Parameters
    ----------
    layers : sequence of Layer
        Of more than 36, so many at even distances are drawn.
    n_k : int
        Key heads; heads that share one are framed.
    title : str

    Returns
    -------
    Figure
    """
    shown = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), _MOST_PANELS)).astype(int))
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.75 * columns + 1.2, 1.9 * rows + 1.1), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.ravel()[len(shown) :]:
        ax.remove()
    for ax, i in zip(grid.ravel(), shown, strict=False):
        above, below = (layers[i].views[view].same.cosine for view in ("all_keys", "without_sinks"))
        n = len(above)
        image = ax.imshow(np.triu(above, 1) + np.tril(below), vmin=0, vmax=1, cmap="magma")
        ax.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="white", linewidth=1)
        if 1 < n_k < n:
            size = n // n_k
            for start in range(0, n, size):
                frame = Rectangle((start - 0.5, start - 0.5), size, size, fill=False, edgecolor="#56B4E9", linewidth=1)
                ax.add_patch(frame)
        ax.set_title(f"layer {i}", fontsize=9, pad=3)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=grid.ravel()[: len(shown)].tolist(), label="cosine", shrink=0.5, aspect=30)
    frames = "\nframes: heads that share a key head" if 1 < n_k < n else ""
    note = f"above the diagonal: {VIEWS['all_keys']}; below it: {VIEWS['without_sinks']}{frames}"
    figure.suptitle(f"{title}\n{note}".strip(), fontsize=10)
    return figure


def similarity_by_layer(layers: Sequence[Layer], title: str = "") -> Figure:
    """Mean cosine and divergence of two heads by layer, beside the two baselines.

    Parameters
    ----------
    layers : sequence of Layer
    title : str

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    grid = figure.subplots(2, len(VIEWS), sharex=True, sharey="row")
    where = np.arange(len(layers))
    series = (
        ("same", "on the same text", COLOURS[0], "o-"),
        ("other", "against another text: position alone", COLOURS[1], "s--"),
        ("shuffled", "keys shuffled in each row: concentration alone", "0.55", "^:"),
    )
    for column, (name, label) in enumerate(VIEWS.items()):
        views = [layer.views[name] for layer in layers]
        for row, figure_name in enumerate(Comparison._fields):
            ax = grid[row, column]
            for field, meaning, colour, style in series:
                means = [between_heads(getattr(getattr(view, field), figure_name)) for view in views]
                ax.plot(where, means, style, color=colour, label=meaning, markersize=4, linewidth=1.5)
            if figure_name == "cosine":
                low, high = zip(*((view.by_window.min(), view.by_window.max()) for view in views), strict=True)
                ax.fill_between(
                    where, low, high, color=COLOURS[0], alpha=0.18, linewidth=0, label="lowest to highest text"
                )
            ax.set_ylim(0, 1)
            ax.grid(axis="y", color="0.9")
            ax.spines[["top", "right"]].set_visible(False)
        grid[0, column].set_title(label)
        grid[1, column].set_xlabel("layer")
    sinks = [layer.sink_weight for layer in layers]
    grid[0, 0].plot(where, sinks, color="black", linewidth=1, label="weight on the first key and sinks")
    grid[0, 0].set_ylabel("cosine of two heads' rows\n(1: the same)")
    grid[1, 0].set_ylabel("Jensen–Shannon divergence, bits\n(0: the same)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def maps_needed(counts: dict[str, np.ndarray], thresholds: Sequence[float], n_maps: int, title: str = "") -> Figure:
    """How many maps each layer needs for each threshold, a panel a view.

    Parameters
    ----------
    counts : dict of str to (layers, thresholds), integers
        Keyed by VIEWS.
    thresholds : sequence of float
    n_maps : int
        Maps that a layer has.
    title : str

    Returns
    -------
    Figure
    """
    n_layers = len(next(iter(counts.values())))
    figure = Figure(figsize=(max(6.0, 0.36 * n_layers + 2), 1.1 + 2.1 * len(counts)), layout="constrained")
    for ax, (view, numbers) in zip(figure.subplots(len(counts), 1, squeeze=False)[:, 0], counts.items(), strict=True):
        image = ax.imshow(numbers.T, vmin=1, vmax=n_maps, cmap="YlGnBu", aspect="auto")
        for (layer, threshold), number in np.ndenumerate(numbers):
            colour = "white" if number > 0.6 * n_maps else "black"
            ax.text(layer, threshold, str(number), ha="center", va="center", fontsize=8, color=colour)
        ax.set_xticks(range(0, n_layers, max(1, n_layers // 15)))
        means = numbers.mean(axis=0)
        names = [f"≥ {t:g}   mean {mean:.1f}" for t, mean in zip(thresholds, means, strict=True)]
        ax.set_yticks(range(len(thresholds)), names)
        ax.set_ylabel("cosine with the\nmap that is kept")
        ax.set_title(VIEWS[view], fontsize=10)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    ax.set_xlabel("layer")
    figure.colorbar(image, ax=figure.axes, label=f"maps needed, of {n_maps}", aspect=30)
    if title:
        figure.suptitle(title)
    return figure


def maps_on_text(maps: np.ndarray, tokens: Sequence[str], clusters: Clusters, title: str = "") -> Figure:
    """Draw the maps of one layer on real text, tokens along both axes; heads of one cluster have one colour.

    Parameters
    ----------
    maps : (n, N, N)
        Rows are queries and sum to 1.
    tokens : sequence of N str
    clusters : list of lists of int
        A head alone in its cluster stays black.
    title : str

    Returns
    -------
    Figure
    """
    n, length, _ = maps.shape
    columns = min(3, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(4.4 * columns + 1, 4.5 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    colour = dict.fromkeys(range(n), "black")
    for i, cluster in enumerate(c for c in clusters if len(c) > 1):
        colour |= dict.fromkeys(cluster, COLOURS[i % (len(COLOURS) - 1)])
    seen = np.where(np.tri(length, dtype=bool), maps, np.nan)  # what the mask hides stays white
    labels = [token_label(token) for token in tokens]
    for ax in grid[n:]:
        ax.remove()
    for head, ax in enumerate(grid[:n]):
        # exponent 0.4: most entries are weak, and a linear scale would show them all as 0
        image = ax.imshow(seen[head], norm=PowerNorm(0.4, vmin=0, vmax=1), cmap="magma", interpolation="nearest")
        ax.set_title(f"head {head}", color=colour[head], weight="bold", fontsize=11)
        ax.set_xticks(range(length), labels if head + columns >= n else [], fontsize=8, rotation=90)
        ax.set_yticks(range(length), labels if head % columns == 0 else [], fontsize=8)
        ax.tick_params(length=0, pad=2)
        for spine in ax.spines.values():
            spine.set(color=colour[head], linewidth=2)
        if head % columns == 0:
            ax.set_ylabel("query token")
        if head + columns >= n:
            ax.set_xlabel("key token")
    figure.colorbar(image, ax=grid[:n].tolist(), label="attention weight", shrink=0.5, aspect=40)
    if title:
        figure.suptitle(title)
    return figure
