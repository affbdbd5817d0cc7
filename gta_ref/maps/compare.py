"""How similar the attention maps of a layer's heads are.

Row t of head i's map, A_{i,t}, is a distribution over the keys 0 … t. Two heads are compared query by query, and the
result is the mean over the queries:

    cosine       C_ij = mean_t ⟨A_{i,t}, B_{j,t}⟩ / (‖A_{i,t}‖ ‖B_{j,t}‖)
    divergence   D_ij = mean_t H(½ A_{i,t} + ½ B_{j,t}) − ½ H(A_{i,t}) − ½ H(B_{j,t}),   H(p) = −Σ_s p_s log2 p_s

D is the Jensen–Shannon divergence in bits, from 0 to 1. In C and D every query has the same weight. The cosine of
flattened maps (:func:`flat_cosine`) is different: it weights a query by ‖A_{i,t}‖ ‖B_{j,t}‖, which is 1 if each row has
all its weight on one key, and 1/(t + 1) if both rows are uniform.

Trained heads put much of their weight on the first key, whatever token it is, and some also on a few other tokens of
little meaning. These keys are called sinks (:func:`sinks`). So there are three views of a layer: all keys, without the
first key, and without the first key and all sinks. When keys are left out, each row is normalised over the kept ones:

    A'_{i,t,s} = A_{i,t,s} / Σ_{r kept} A_{i,t,r}.

A query that has fewer than two keys to choose from has the same row in all heads, or no row, and is not counted. This
is query 0 in the view of all keys, and in the other views every query that sees at most one key that is kept.

To compare the heads themselves, B is A. For the two baselines, B is

- the maps on another text (``View.other``): this removes what a map owes to the words that it reads, and keeps what it
  owes to position (the first key, the neighbours) and to how concentrated its rows are;
- A with the keys of each row permuted at random (``View.shuffled``): this removes where the weight lies, and keeps how
  concentrated the rows are. Uniform rows stay similar, so a high cosine alone says little.
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
SINK_WEIGHT = 0.1  # a key with at least this mean weight is a sink
SINK_DISTANCE = 16  # the mean is over queries at least this far after the key; nearer ones attend to a neighbour


class Comparison(NamedTuple):
    """Similarity of two stacks of n maps, head by head."""

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
    """What is measured of one layer.

    Attributes
    ----------
    first_weight : float
        Weight on the first key, averaged over heads, windows and all queries except query 0.
    sink_weight : float
        The same for the first key and all sinks together.
    sinks : list of lists of int
        Each window's sinks.
    views : dict of str to View
        The keys are those of VIEWS. Empty if the layer has one map, which there is nothing to compare with.
    """

    first_weight: float
    sink_weight: float
    sinks: list[list[int]]
    views: dict[str, View]

    @property
    def n_maps(self) -> int:
        """Number of maps, that is of heads that are compared."""
        return len(self.views["all_keys"].flat) if self.views else 1


def layer_maps(params: Mapping[str, Array], ids: Array, config: model.Config) -> Iterator[Array]:
    """Run the model over texts and yield the attention maps layer by layer.

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
    # not a loop: its variable would hold all stages of one layer while the next layer is computed
    return map(itemgetter("map"), model.layer_traces(params, ids, config))


def measure(maps: Array, rng: np.random.Generator) -> Layer:
    """Compare the heads of a layer with each other.

    Parameters
    ----------
    maps : (W, n, N, N)
        Causal maps of n ≥ 1 heads on W ≥ 2 texts of N ≥ 3 tokens. If n = 1, only the weights on the first key and on
        sinks are measured.
    rng : numpy.random.Generator
        Draws the permutations of the shuffled baseline.

    Raises
    ------
    ValueError
        If the shape does not fit, or no query is left to compare.
    """
    check_shape("maps", maps, ("W", "n", "N", "N"))
    n_windows, n, n_queries, n_keys = maps.shape
    if n_windows < 2 or n < 1 or n_queries != n_keys or n_keys < 3:
        raise ValueError(f"maps has shape {maps.shape}; expected (W, n, N, N) with W ≥ 2, n ≥ 1 and N ≥ 3")
    found = [sinks(a) for a in maps]
    dropped: dict[str, list[list[int]]] = {
        "all_keys": [[]] * len(maps),
        "without_first": [[0]] * len(maps),
        "without_sinks": [sorted({0, *keys}) for keys in found],
    }
    weights = [a[:, 1:, keys].sum(axis=-1).mean() for a, keys in zip(maps, dropped["without_sinks"], strict=True)]
    views: dict[str, View] = {}
    for name, keys in dropped.items() if n > 1 else ():
        # if no window has a sink besides the first key, two views leave out the same keys
        twin = next((done for done in views if dropped[done] == keys), None)
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
        Causal maps, as :func:`without` returns them. A query at which any head has an empty row is not counted.

    Returns
    -------
    Comparison
        Entry [i, j] compares head i of `a` with head j of `b`.

    Raises
    ------
    ValueError
        If no query is left.
    """
    counted = (a.sum(axis=-1) > 0).all(axis=0) & (b.sum(axis=-1) > 0).all(axis=0)  # (N,)
    n_queries = np.count_nonzero(counted)
    if n_queries == 0:
        raise ValueError("maps: no query has two or more kept keys on which every head has weight")
    queries, keys = np.tril_indices(len(counted))
    queries, keys = queries[counted[queries]], keys[counted[queries]]
    p, q = a[:, queries, keys], b[:, queries, keys]  # (n, E): all rows, concatenated
    # both measures are sums over queries of sums over keys, so they are sums over all entries
    cosine = (p / _norms(a)[:, queries]) @ (q / _norms(b)[:, queries]).T / n_queries  # (n, n)
    p_half, q_half = p / 2, q / 2
    mixed = np.array([_entropy(p_i + q_half) for p_i in p_half])  # (n, n)
    divergence = (mixed - (_entropy(p)[:, None] + _entropy(q)) / 2) / n_queries
    return Comparison(cosine, np.maximum(divergence, 0.0))  # rounding may leave −1e−16


def flat_cosine(maps: Array) -> Array:
    """Cosine of every two heads' maps (n, N, N), each taken as one long vector: (n, n)."""
    vectors = maps.reshape(len(maps), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine: Array = vectors @ vectors.T
    return cosine


def without(maps: Array, keys: list[int]) -> Array:
    """Leave keys out and normalise each row to 1 again.

    A row becomes zero if it has fewer than two keys left or no weight on them.

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
    whole: Array = np.divide(rest, total, out=np.zeros_like(rest), where=total > 0)
    return whole


def sinks(maps: Array) -> list[int]:
    """Find the keys to which queries that are 16 or more positions later give 0.1 or more of their weight.

    The weight is averaged over those queries and over all heads.

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
    """Permute the keys of each row at random, in the same way for all heads; masked and dropped keys stay in place.

    Parameters
    ----------
    maps : (n, N, N)
    rng : numpy.random.Generator
    dropped : list of int
    """
    left = np.delete(np.arange(maps.shape[-1]), dropped)
    visible = left <= np.arange(maps.shape[-1])[:, None]  # (N, keys left): in each row, the first ones
    order = np.where(visible, rng.random(visible.shape), 1.0 + np.arange(len(left))).argsort(axis=1)
    shuffled = np.zeros_like(maps)
    shuffled[:, :, left] = np.take_along_axis(maps[:, :, left], order[None], axis=2)
    return shuffled


def between_heads(matrix: Array) -> float:
    """Mean of an (n, n) matrix over pairs of different heads."""
    n = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (n * (n - 1)))


def _norms(maps: Array) -> Array:
    norms: Array = np.sqrt((maps**2).sum(axis=-1))  # (n, N)
    return norms


def _entropy(p: Array) -> Array:
    """−Σ p log2 p over the last axis; 0 log 0 is 0."""
    terms = np.log2(p + np.finfo(p.dtype).tiny)
    terms *= p
    total: Array = -terms.sum(axis=-1)
    return total
