"""The results of all layers as plain numbers for JSON: matrices, clusters, and their means over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from gta_ref.maps import clusters as clustering
from gta_ref.maps.compare import VIEWS, Comparison, Layer, View, between_heads

BASELINES = ("same", "other", "shuffled")
_DIGITS = 5


def report(
    layers: Sequence[Layer],
    n_k: Sequence[int],
    thresholds: Sequence[float] = clustering.THRESHOLDS,
) -> dict[str, Any]:
    """Cluster every layer's heads and summarise the layers.

    Parameters
    ----------
    layers : sequence of Layer
    n_k : sequence of int
        Number of key heads in each layer.
    thresholds : sequence of float
        Similarities at which the maps needed are counted, each at most 1.

    Returns
    -------
    dict
        ``layers``: for each layer its numbers of maps and key heads, and for each view the matrices of cosine and
        divergence, the number of maps needed and the clusters at each threshold, and the similarity of heads that share
        a key head; None for the views of a layer with one map. ``summary``: for each view, means and sums over the
        layers with at least two maps. ``thresholds``: as given.

    Raises
    ------
    ValueError
        If no layer has two maps.
    """
    if not any(layer.views for layer in layers):
        raise ValueError(f"layers: none of the {len(layers)} has two maps to compare; expected at least one that has")
    found: list[dict[str, Any]] = [
        {
            "layer": i,
            "maps": layer.n_maps,
            "key_heads": n_k[i],
            "first_weight": layer.first_weight,
            "sink_weight": layer.sink_weight,
            "sinks": layer.sinks,
            **dict.fromkeys(VIEWS),
            **{name: _view(view, n_k[i], thresholds) for name, view in layer.views.items()},
        }
        for i, layer in enumerate(layers)
    ]
    return {
        "thresholds": list(thresholds),
        "summary": {
            name: _summary([layer[name] for layer in found if layer[name] is not None], thresholds) for name in VIEWS
        },
        "layers": found,
    }


def _view(view: View, n_k: int, thresholds: Sequence[float]) -> dict[str, Any]:
    similarity = view.same.cosine
    n_q = len(similarity)
    clusters = clustering.needed(similarity, thresholds)
    return {
        **{baseline: _comparison(getattr(view, baseline)) for baseline in BASELINES},
        "same_head_other_text": float(view.other.cosine.trace() / n_q),
        "flat_cosine": _rounded(view.flat),
        "mean_flat_cosine": between_heads(view.flat),
        "mean_cosine_by_window": _rounded(view.by_window),
        "maps_needed": {f"{t:g}": len(c) for t, c in zip(thresholds, clusters, strict=True)},
        "clusters": {f"{t:g}": c for t, c in zip(thresholds, clusters, strict=True)},
        "sharing_a_key": _sharing(similarity, n_k) if 1 < n_k < n_q else None,
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    means = {f"mean_{name}": between_heads(matrix) for name, matrix in found._asdict().items()}
    return means | {name: _rounded(matrix) for name, matrix in found._asdict().items()}


def _sharing(similarity: np.ndarray, n_k: int) -> dict[str, Any]:
    """Test whether heads that share a key head are more similar, and whether clustering into n_k finds these groups."""
    n_q = len(similarity)
    groups = clustering.key_groups(n_q, n_k)
    within, across = clustering.within_and_across(similarity, groups)
    clusters = clustering.cut(similarity, n_k)
    size = n_q // n_k
    # expected number of groups found if the heads were numbered at random: a cluster of a group's size is one of the
    # n_k groups with probability n_k / C(n_q, size)
    by_chance = sum(len(c) == size for c in clusters) * n_k / comb(n_q, size)
    return {
        "within": within,
        "across": across,
        "clusters": clusters,
        "groups_found": clustering.n_shared(clusters, groups),
        "groups": n_k,
        "expected_by_chance": by_chance,
    }


def _summary(layers: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> dict[str, Any]:
    means = {
        f"{measure}_{baseline}": float(np.mean([layer[baseline][f"mean_{measure}"] for layer in layers]))
        for measure in Comparison._fields
        for baseline in BASELINES
    }
    needed = {f"{t:g}": [layer["maps_needed"][f"{t:g}"] for layer in layers] for t in thresholds}
    return {
        **means,
        "layers": len(layers),
        "flat_cosine": float(np.mean([layer["mean_flat_cosine"] for layer in layers])),
        "same_head_other_text": float(np.mean([layer["same_head_other_text"] for layer in layers])),
        "maps": sum(len(layer["flat_cosine"]) for layer in layers),
        "maps_needed": {t: sum(numbers) for t, numbers in needed.items()},
        "sharing_a_key": _sum_sharing([layer["sharing_a_key"] for layer in layers]),
    }


def _sum_sharing(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    sharing = [one for one in found if one is not None]
    if not sharing:
        return None
    return {
        "within": float(np.mean([one["within"] for one in sharing])),
        "across": float(np.mean([one["across"] for one in sharing])),
        "layers_more_alike_within": sum(one["within"] > one["across"] for one in sharing),
        "layers": len(sharing),
        "groups_found": sum(one["groups_found"] for one in sharing),
        "groups": sum(one["groups"] for one in sharing),
        "expected_by_chance": sum(one["expected_by_chance"] for one in sharing),
    }


def _rounded(array: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(array.astype(np.float64), _DIGITS).tolist()
    return rounded
