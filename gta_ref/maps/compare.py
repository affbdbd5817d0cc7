"""How alike the attention maps of a layer's heads are.

Row t of head i's map, A_{i,t}, is a distribution over the keys 0 … t. Heads are compared query by query, and the
figure of two heads is the mean over the queries:

    cosine       C_ij = mean_t ⟨A_{i,t}, B_{j,t}⟩ / (‖A_{i,t}‖ ‖B_{j,t}‖)
    divergence   D_ij = mean_t H(½ A_{i,t} + ½ B_{j,t}) − ½ H(A_{i,t}) − ½ H(B_{j,t}),   H(p) = −Σ_s p_s log2 p_s

D is the Jensen–Shannon divergence in bits, 0 to 1. Every query counts alike, because each uses one row of the map. The
cosine of flattened maps (:func:`flat_cosine`) does not: it weights a query by ‖A_{i,t}‖ ‖B_{j,t}‖, which is 1 where
both rows see one key and 1/(t + 1) where both are even.

Trained heads put much of their weight on the first key, whatever stands there, and some also on a few other tokens of
little meaning: sinks (:func:`sinks`). So there are three views of a layer: all keys, without the first key, and without
the first key and all sinks. Keys are left out by

    A'_{i,t,s} = A_{i,t,s} / Σ_{r left} A_{i,t,r}.

A query with fewer than two keys to choose from has the same row in all heads, or none, and is not counted: query 0,
and in the other views those that see only what is left out, and one key more.

B is A for the figure itself. For the two baselines, B is

- the maps on another text (``View.other``): gone is what a map owes to the words that it reads; left is what it
  owes to position (the first key, the neighbours) and to how concentrated its rows are;
- A with the keys of each row permuted at random (``View.shuffled``): gone is where the weight lies; left is how
  concentrated the rows are. Even rows stay alike under it, so a high cosine alone says little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from gta_ref.errors import check_shape
from gta_ref.lm import model
from gta_ref.ops import Array

VIEWS = {
    "all_keys": "all keys",
    "without_first": "without the first key",
    "without_sinks": "without the first key and sinks",
}
SINK_WEIGHT = 0.1  # mean weight from which on a key is a sink
SINK_DISTANCE = 16  # queries nearer than that attend to a key as a neighbour


class Comparison(NamedTuple):
    """What two stacks of n maps have in common, head by head."""

    cosine: Array  # (n, n)
    divergence: Array  # (n, n), bits


@dataclass(frozen=True)
class View:
    """A layer's maps compared; all figures are means over the windows of text.

    Attributes
    ----------
    same, other, shuffled : Comparison
        Head i against head j on the same text, on the next window's text, and with j's keys shuffled.
    flat : (n, n)
        Cosine of the flattened maps on the same text.
    by_window : (W,)
        Mean cosine of two different heads in each window, on the same text.
    """

    same: Comparison
    other: Comparison
    shuffled: Comparison
    flat: Array
    by_window: Array


@dataclass(frozen=True)
class Layer:
    """One layer's figures.

    Attributes
    ----------
    first_weight : float
        Weight on the first key, mean over heads, windows and queries but query 0.
    sink_weight : float
        The same on the first key and all sinks.
    sinks : list of lists of int
        Each window's sinks.
    views : dict of str to View
        Keyed by VIEWS.
    """

    first_weight: float
    sink_weight: float
    sinks: list[list[int]]
    views: dict[str, View]


def layer_maps(params: Mapping[str, Array], ids: Array, config: model.Config) -> Iterator[Array]:
    """Run the model over texts and give the attention maps of one layer after the other.

    Parameters
    ----------
    params : dict of str to array
    ids : (B, N), integers
    config : model.Config

    Returns
    -------
    iterator of (B, n_q, N, N)
        Only one layer's maps are held at a time.
    """
    # not a loop, whose variable would hold all stages of one layer while the next is computed
    return map(itemgetter("map"), model.layer_traces(params, ids, config))


def measure(maps: Array, rng: np.random.Generator) -> Layer:
    """Compare the heads of a layer with each other.

    Parameters
    ----------
    maps : (W, n, N, N)
        Causal maps of n ≥ 2 heads on W ≥ 2 texts of N ≥ 3 tokens.
    rng : numpy.random.Generator
        Draws the permutations of the shuffled baseline.

    Raises
    ------
    ValueError
        On a shape that does not fit, or where no query is left to compare.
    """
    check_shape("maps", maps, ("W", "n", "N", "N"))
    n_windows, n, n_queries, n_keys = maps.shape
    if n_windows < 2 or n < 2 or n_queries != n_keys or n_keys < 3:
        raise ValueError(f"maps has shape {maps.shape}; expected (W, n, N, N) with W ≥ 2, n ≥ 2 and N ≥ 3")
    found = [sinks(a) for a in maps]
    dropped: dict[str, list[list[int]]] = {
        "all_keys": [[]] * len(maps),
        "without_first": [[0]] * len(maps),
        "without_sinks": [sorted({0, *keys}) for keys in found],
    }
    weights = [a[:, 1:, keys].sum(axis=-1).mean() for a, keys in zip(maps, dropped["without_sinks"], strict=True)]
    views: dict[str, View] = {}
    for name, keys in dropped.items():
        twin = next((done for done in views if dropped[done] == keys), None)  # a layer without other sinks
        views[name] = _view(maps, keys, rng) if twin is None else views[twin]
    return Layer(float(maps[:, :, 1:, 0].mean()), float(np.mean(weights)), found, views)


def _view(maps: Array, dropped: list[list[int]], rng: np.random.Generator) -> View:
    left = [without(a, keys) for a, keys in zip(maps, dropped, strict=True)]
    same = [compare(a, a) for a in left]
    other = [compare(a, b) for a, b in zip(left, [*left[1:], left[0]], strict=True)]
    shuffled = [compare(a, shuffle(a, rng, keys)) for a, keys in zip(left, dropped, strict=True)]
    return View(
        _mean(same),
        _mean(other),
        _mean(shuffled),
        np.mean([flat_cosine(a) for a in left], axis=0),
        np.array([between_heads(found.cosine) for found in same]),
    )


def _mean(found: list[Comparison]) -> Comparison:
    return Comparison(*(np.mean(x, axis=0) for x in zip(*found, strict=True)))


def compare(a: Array, b: Array) -> Comparison:
    """Cosine and Jensen–Shannon divergence of every head of `a` with every head of `b`.

    Parameters
    ----------
    a, b : (n, N, N)
        Causal maps, as :func:`without` gives them. A query at which any head has an empty row is not counted.

    Returns
    -------
    Comparison
        Entry [i, j] is that of a's head i and b's head j.

    Raises
    ------
    ValueError
        Where no query is left.
    """
    counted = (a.sum(axis=-1) > 0).all(axis=0) & (b.sum(axis=-1) > 0).all(axis=0)  # (N,)
    n_queries = np.count_nonzero(counted)
    if n_queries == 0:
        raise ValueError("maps: no query at which every head has weight on two keys or more that are left")
    queries, keys = np.tril_indices(len(counted))
    queries, keys = queries[counted[queries]], keys[counted[queries]]
    p, q = a[:, queries, keys], b[:, queries, keys]  # (n, E): the rows one after the other
    # both figures are sums over queries of sums over keys, so sums over all entries
    cosine = (p / _norms(a)[:, queries]) @ (q / _norms(b)[:, queries]).T / n_queries  # (n, n)
    p_half, q_half = p / 2, q / 2
    mixed = np.array([_entropy(p_i + q_half) for p_i in p_half])  # (n, n)
    divergence = (mixed - (_entropy(p)[:, None] + _entropy(q)) / 2) / n_queries
    return Comparison(cosine, np.maximum(divergence, 0.0))  # rounding may leave −1e−16


def flat_cosine(maps: Array) -> Array:
    """Cosine of every two heads' maps (n, N, N), each one long vector: (n, n)."""
    vectors = maps.reshape(len(maps), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def without(maps: Array, keys: list[int]) -> Array:
    """Leave keys out and let each row sum to 1 again; a row with fewer than two keys left becomes zero.

    So does a row that has no weight on what is left.

    Parameters
    ----------
    maps : (..., N, N)
    keys : list of int
    """
    rest = maps.copy()
    rest[..., keys] = 0
    n_left = np.tri(maps.shape[-1], dtype=int)
    n_left[:, keys] = 0
    rest[..., n_left.sum(axis=1) < 2, :] = 0
    total = rest.sum(axis=-1, keepdims=True)
    return np.divide(rest, total, out=np.zeros_like(rest), where=total > 0)


def sinks(maps: Array) -> list[int]:
    """Find the keys to which queries that are 16 or more places later give 0.1 or more of their weight.

    The mean over those queries and over all heads counts.

    Parameters
    ----------
    maps : (n, N, N)
    """
    mean = maps.mean(axis=0)  # (N, N)
    far = np.tri(len(mean), k=-SINK_DISTANCE)
    n_queries = far.sum(axis=0)
    weight = (mean * far).sum(axis=0) / np.maximum(n_queries, 1)
    return np.flatnonzero(weight >= SINK_WEIGHT).tolist()


def shuffle(maps: Array, rng: np.random.Generator, dropped: list[int]) -> Array:
    """Permute the keys of each row, all heads alike; hidden keys and dropped ones stay where they are.

    Parameters
    ----------
    maps : (n, N, N)
    rng : numpy.random.Generator
    dropped : list of int
    """
    left = np.delete(np.arange(maps.shape[-1]), dropped)
    visible = left <= np.arange(maps.shape[-1])[:, None]  # (N, keys left): in each row those in front
    order = np.where(visible, rng.random(visible.shape), 1.0 + np.arange(len(left))).argsort(axis=1)
    shuffled = np.zeros_like(maps)
    shuffled[:, :, left] = np.take_along_axis(maps[:, :, left], order[None], axis=2)
    return shuffled


def between_heads(matrix: Array) -> float:
    """Mean of an (n, n) matrix over pairs of different heads."""
    n = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (n * (n - 1)))


def _norms(maps: Array) -> Array:
    return np.sqrt((maps**2).sum(axis=-1))  # (n, N)


def _entropy(p: Array) -> Array:
    """−Σ p log2 p over the last axis; 0 log 0 is 0."""
    terms = np.log2(p + np.finfo(p.dtype).tiny)
    terms *= p
    return -terms.sum(axis=-1)
