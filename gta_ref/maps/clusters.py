"""How many attention maps a layer needs: its heads clustered by the similarity of their maps.

The tree is built by average linkage on the distance 1 − C, where C is the mean cosine of two heads' maps
(:mod:`gta_ref.maps.compare`). It is cut into k clusters, and each cluster keeps one map, that of its medoid: the head
with the largest summed similarity to its cluster. The layer needs k maps at the threshold τ if k is the smallest number
for which

    C[i, medoid of i's cluster] ≥ τ   for every head i.

A user who turns a trained model into GTA can choose n_q by this number. It is an upper bound, because only the cuts of
one tree are tried, not all partitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gta_ref.errors import as_int, check_divides
from gta_ref.ops import Array

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)

Clusters = list[list[int]]  # the heads of each cluster, in order


def cut(similarity: Array, k: int) -> Clusters:
    """Cut the tree of n heads into at most k clusters, fewer only if distances tie.

    Parameters
    ----------
    similarity : (n, n)
        Symmetric; 1 on the diagonal.
    k : int
        At least 1.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    k = as_int("k", k, at_least=1)
    n = len(similarity)
    if k >= n:
        return [[i] for i in range(n)]
    distance = 1 - (similarity + similarity.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(np.maximum(distance, 0), checks=False), "average")
    labels = fcluster(tree, k, "maxclust")
    return sorted(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))


def medoid(similarity: Array, cluster: Sequence[int]) -> int:
    """Return the head with the largest summed similarity to its cluster, the first if several tie."""
    return int(cluster[similarity[np.ix_(cluster, cluster)].sum(axis=1).argmax()])


def least_similarity(similarity: Array, clusters: Clusters) -> float:
    """Return the smallest similarity of any head to the medoid of its cluster."""
    return min(float(similarity[medoid(similarity, c), c].min()) for c in clusters)


def needed(similarity: Array, thresholds: Sequence[float] = THRESHOLDS) -> list[Clusters]:
    """For each threshold, find the fewest clusters of the tree such that every head is that similar to its medoid.

    Parameters
    ----------
    similarity : (n, n)
    thresholds : sequence of float
        Each at most 1.

    Returns
    -------
    list of Clusters
        One per threshold; its length is the number of maps needed.
    """
    if not all(threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds={tuple(thresholds)} must be at most 1")
    n = len(similarity)
    cuts = [cut(similarity, k) for k in range(1, n + 1)]
    worst = [least_similarity(similarity, clusters) for clusters in cuts]
    worst[-1] = 1.0  # each head keeps its own map; its rounded cosine with itself may lie below 1
    return [
        next(clusters for clusters, served in zip(cuts, worst, strict=True) if served >= threshold)
        for threshold in thresholds
    ]


def key_groups(n_q: int, n_k: int) -> Clusters:
    """Return the heads that read one key head: contiguous runs of n_q/n_k."""
    check_divides("n_k", n_k, "n_q", n_q)
    return np.arange(n_q).reshape(n_k, -1).tolist()


def within_and_across(similarity: Array, groups: Clusters) -> tuple[float, float]:
    """Mean similarity of two heads of the same group, and of two heads of different groups."""
    label = np.empty(len(similarity), int)
    for g, group in enumerate(groups):
        label[group] = g
    upper = np.triu(np.ones(similarity.shape, bool), 1)
    alike = label[:, None] == label
    return float(similarity[upper & alike].mean()), float(similarity[upper & ~alike].mean())


def n_shared(clusters: Clusters, groups: Clusters) -> int:
    """Count the groups that are identical to a cluster."""
    return sum(group in clusters for group in groups)
