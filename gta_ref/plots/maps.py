"""Attention maps on text, and how similar the maps of a model's heads are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from gta_ref.maps.clusters import Clusters
from gta_ref.maps.compare import VIEWS, Comparison, Layer, between_heads
from gta_ref.plots.axes import block, numbers, token_axes, weights
from gta_ref.plots.common import BLACK, BLUE, COLOURS, GREY, ORANGE, SKY, WIDTH, ink, panels, shared_legend

_MOST_PANELS = 36
_MOST_NUMBERS = 40  # layers in a row of cells that have room for a number


def attention_maps(
    maps: np.ndarray,
    tokens: Sequence[str],
    *,
    n_heads: int | None = None,
    clusters: Clusters | None = None,
    title: str = "",
) -> Figure:
    """Draw the attention maps of one layer as heat maps, one panel per map, with the tokens along both axes.

    Parameters
    ----------
    maps : (n, N, N)
        Rows are queries and sum to 1.
    tokens : sequence of N str
    n_heads : int, optional
        Number of output heads, if they share the maps. Each panel then says which of them read its map.
    clusters : list of lists of int, optional
        Heads of one cluster have the same colour; a head alone in its cluster stays black.
    title : str

    Returns
    -------
    Figure
    """
    n = len(maps)
    columns = min(3, n)
    rows = -(-n // columns)
    inches = min(4.4, (WIDTH - 1.3) / columns)  # of a panel
    size = columns * inches + 1.3, rows * (inches + 0.2) + 0.9
    figure, axes = panels(size, rows, columns, n, frame="box", title=title)
    colour = [BLACK] * n
    for i, cluster in enumerate(c for c in clusters or () if len(c) > 1):
        for head in cluster:
            colour[head] = COLOURS[i % (len(COLOURS) - 1)]
    for m, ax in enumerate(axes):
        image = weights(ax, maps[m])
        token_axes(ax, tokens, inches, down=m % columns == 0, across=m + columns >= n)
        ax.set_title(_name(m, n, n_heads), color=ink(colour[m]), weight="bold", fontsize=10)
        for spine in ax.spines.values():
            spine.set(color=colour[m], linewidth=2 if clusters else 1)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.5, aspect=40, fraction=0.03, pad=0.01)
    # the layout of a single row needs a second pass: after the first, long tokens push the axis' label off the page
    figure.draw_without_rendering()
    return figure


def _name(m: int, n: int, n_heads: int | None) -> str:
    if n_heads is None:
        return f"head {m}"
    each = n_heads // n
    return f"map {m}: output heads {m * each}–{(m + 1) * each - 1}" if each > 1 else f"map {m}: output head {m}"


def head_similarity(layers: Sequence[Layer], n_k: Sequence[int], title: str = "") -> Figure:
    """Draw the cosine of every two heads, one panel per layer: with all keys above the diagonal, without sinks below.

    Parameters
    ----------
    layers : sequence of Layer
        Those with one map are left out. If there are more than 36 others, 36 of them at even distances are drawn.
    n_k : sequence of int
        Number of key heads in each layer. Heads that share one are framed.
    title : str

    Returns
    -------
    Figure
    """
    several = [i for i, layer in enumerate(layers) if layer.n_maps > 1]
    places = np.linspace(0, len(several) - 1, min(len(several), _MOST_PANELS)).astype(int)
    shown = [several[place] for place in np.unique(places)]
    shares = {i: 1 < n_k[i] < layers[i].n_maps for i in shown}
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    note = f"above the diagonal: {VIEWS['all_keys']}; below it: {VIEWS['without_sinks']}"
    note += "\nframes: heads that share a key head" if any(shares.values()) else ""
    size = max(1.45 * columns + 1.2, 4.7), 1.6 * rows + 1.1
    figure, axes = panels(size, rows, columns, len(shown), frame="none", title=f"{title}\n{note}".strip())
    for ax, i in zip(axes, shown, strict=True):
        above, below = (layers[i].views[view].same.cosine for view in ("all_keys", "without_sinks"))
        image = ax.imshow(np.triu(above, 1) + np.tril(below), vmin=0, vmax=1, cmap="magma")
        n, side = layers[i].n_maps, layers[i].n_maps // n_k[i]
        ax.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="white", linewidth=1)
        for start in range(0, n, side) if shares[i] else ():
            block(ax, (start, start), (side, side), edge=SKY, lw=1)
        ax.set_title(f"layer {i}", fontsize=9, pad=3)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.5, aspect=30, fraction=0.03, pad=0.01)
    return figure


def similarity_by_layer(layers: Sequence[Layer], title: str = "") -> Figure:
    """Draw the mean cosine and divergence of two heads by layer, with the two baselines.

    Parameters
    ----------
    layers : sequence of Layer
        Where one has only one map, the curves have a gap.
    title : str

    Returns
    -------
    Figure
    """
    columns = len(VIEWS)
    figure, axes = panels((WIDTH, 6.4), 2, columns, grid="y", title=title, sharex=True, sharey="row")
    where = np.arange(len(layers))
    series = (
        ("same", "on the same text", BLUE, "o-"),
        ("other", "against another text: position alone", ORANGE, "s--"),
        ("shuffled", "keys shuffled in each row: concentration alone", GREY, "^:"),
    )
    for i, ax in enumerate(axes):
        name, figure_name = list(VIEWS)[i % columns], Comparison._fields[i // columns]
        views = [layer.views.get(name) for layer in layers]
        for field, meaning, colour, style in series:
            means = [between_heads(getattr(getattr(view, field), figure_name)) if view else np.nan for view in views]
            ax.plot(where, means, style, color=colour, label=meaning, markersize=4, linewidth=1.5)
        if figure_name == "cosine":
            windows = [view.by_window if view else np.array([np.nan]) for view in views]
            low, high = zip(*((w.min(), w.max()) for w in windows), strict=True)
            ax.fill_between(where, low, high, color=BLUE, alpha=0.18, linewidth=0, label="lowest to highest text")
            ax.set_title(VIEWS[name], fontsize=10)
        else:
            ax.set_xlabel("layer")
        ax.set_ylim(0, 1)
    sinks = [layer.sink_weight for layer in layers]
    axes[0].plot(where, sinks, color="black", linewidth=1, label="weight on the first key and sinks")
    axes[0].set_ylabel("cosine of two heads' rows\n(1: the same)")
    axes[columns].set_ylabel("Jensen–Shannon divergence, bits\n(0: the same)")
    shared_legend(figure, axes[0], 3)
    return figure


def maps_needed(
    counts: Mapping[str, np.ndarray], thresholds: Sequence[float], n_maps: Sequence[int], title: str = ""
) -> Figure:
    """Draw how many maps each layer needs for each threshold, one panel per view.

    Parameters
    ----------
    counts : mapping of str to (layers, thresholds)
        View, one of VIEWS → number of maps; NaN for the layers with one map, whose cells stay empty.
    thresholds : sequence of float
    n_maps : sequence of int
        Number of maps in each layer. If the layers differ, a row above the others shows it.
    title : str

    Returns
    -------
    Figure
    """
    n_layers, most = len(n_maps), max(n_maps)
    differ = len(set(n_maps)) > 1
    size = min(WIDTH, max(6.0, 0.36 * n_layers + 2)), 1.1 + (2.5 if differ else 2.1) * len(counts)
    figure, axes = panels(size, len(counts), frame="none", title=title)
    for ax, (view, found) in zip(axes, counts.items(), strict=True):
        labels = [f"≥ {t:g}   mean {mean:.1f}" for t, mean in zip(thresholds, np.nanmean(found, axis=0), strict=True)]
        table = found.T.astype(float)  # (thresholds, layers)
        if differ:
            table, labels = np.vstack([n_maps, table]), ["maps there are", *labels]
        image = ax.imshow(table, vmin=1, vmax=most, cmap="YlGnBu", aspect="auto")
        if n_layers <= _MOST_NUMBERS:
            numbers(ax, table, "{:.0f}")
        ax.set_xticks(range(0, n_layers, max(1, n_layers // 15)))
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylabel("cosine with the\nmap that is kept")
        ax.set_title(VIEWS[view], fontsize=10)
    axes[-1].set_xlabel("layer")
    of = f"up to {most}" if differ else most
    figure.colorbar(image, ax=axes, label=f"maps needed, of {of}", aspect=30, fraction=0.03, pad=0.01)
    return figure
