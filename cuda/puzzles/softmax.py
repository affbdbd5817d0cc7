"""Puzzles about the softmax: in one pass, over splits, and for maps that share a cache."""

# Numba infers the types of the kernels when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import cuda, float32

from gta_cuda.puzzles.puzzle import Case, Puzzle
from gta_ref.ops.arrays import Array

# ---- p3


def online(scores, values, out):
    """Compute out[0] = Σ_j exp(s_j − m) v_j / Σ_j exp(s_j − m) and out[1] = log Σ_j exp(s_j), in a single pass.

    One thread does everything, and it may read every score and every value only once. m, the largest score, is not
    known before the end: keep the largest so far, and multiply what has been summed when it grows. Scores may be −∞;
    if all are, out[0] = 0 and out[1] = −∞.
    """
    largest, total, x = float32(-math.inf), float32(0), float32(0)
    for j in range(len(scores)):
        # BEGIN SOLUTION
        s = scores[j]
        high = max(largest, s)
        if high != -math.inf:
            shrink, weight = math.exp(largest - high), math.exp(s - high)
            total = total * shrink + weight
            x = x * shrink + weight * values[j]
            largest = high
        # END SOLUTION
    out[0] = x / total if total > 0 else 0.0
    out[1] = largest + math.log(total) if total > 0 else -math.inf


def _softmax(scores: Array, values: Array, shrink: bool = True) -> Array:
    if not shrink:  # what comes out if earlier sums are not multiplied
        tops = np.maximum.accumulate(scores)
        weights = np.exp(np.where(np.isneginf(scores), -np.inf, scores - tops))
        return np.array([weights @ values / weights.sum(), tops[-1] + np.log(weights.sum())])
    if np.isneginf(scores).all():
        return np.array([0.0, -np.inf])
    weights = np.exp(scores - scores.max())
    return np.array([weights @ values / weights.sum(), scores.max() + np.log(weights.sum())])


def _online_case(what: str, scores: list[float]) -> Case:
    s, v = np.array(scores, np.float32), np.arange(1, len(scores) + 1, dtype=np.float32)
    out = np.full(2, np.nan, np.float32)
    return Case(what, (s, v, out), 1, _softmax(s.astype(np.float64), v.astype(np.float64)), 2 * len(s))


def _not_shrunk(case: Case) -> Array:
    s, v, _ = case.arguments
    with np.errstate(all="ignore"):
        return _softmax(s.astype(np.float64), v.astype(np.float64), shrink=False)


P3 = Puzzle(
    "p3",
    "the online softmax of a row",
    online,
    (
        "When the largest score grows from m to m′, every term exp(s − m) that is in the sums becomes exp(s − m′).",
        "exp(s − m′) = exp(s − m) · exp(m − m′): multiply both sums by exp(m − m′), then add the new term.",
        "As long as all scores are −∞, m − m′ is −∞ − (−∞), which is no number. Leave such scores out.",
    ),
    lambda: (
        _online_case("the scores fall", [3.0, 2.0, 1.0]),
        _online_case("the scores grow", [-1.0, 0.5, 2.0, 2.5]),
        _online_case("scores of some hundreds", [300.0, -200.0, 301.0]),
        _online_case("the first scores are hidden", [-math.inf, -math.inf, 1.0, -math.inf, 2.0]),
        _online_case("all scores are hidden", [-math.inf, -math.inf]),
    ),
    (("the sums so far have to be multiplied by exp(old − new) when the largest score grows", _not_shrunk),),
)

# ---- p6


def merge_splits(z_parts, lse_parts, splits, out):
    """Merge the results of the splits of a decode: z = Σ_s exp(lse_s − lse) z_s with lse = log Σ_s exp(lse_s).

    Thread t has column t. z_parts is flat, (splits, columns); out has the columns of z, then lse. lse_s may be a
    thousand, and it is −∞ if the split has seen no key; if none has, z = 0 and lse = −∞.
    """
    t, columns = cuda.threadIdx.x, cuda.blockDim.x
    # BEGIN SOLUTION
    largest = -math.inf
    for s in range(splits):
        largest = max(largest, lse_parts[s])
    total, x = 0.0, 0.0
    if largest != -math.inf:
        for s in range(splits):
            share = math.exp(lse_parts[s] - largest)
            total += share
            x += share * z_parts[s * columns + t]
    out[t] = x / total if total > 0 else 0.0
    if t == 0:
        out[columns] = largest + math.log(total) if total > 0 else -math.inf
    # END SOLUTION


def _merge_case(what: str, lse: list[float]) -> Case:
    columns, splits = 4, len(lse)
    z = (np.arange(splits * columns, dtype=np.float32) + 1).reshape(splits, columns)
    z[np.isneginf(lse)] = 0
    top = max(lse)
    shares = np.exp(np.array(lse) - top) if top > -math.inf else np.zeros(splits)
    whole = top + math.log(shares.sum()) if top > -math.inf else -math.inf
    merged = shares @ z / shares.sum() if top > -math.inf else np.zeros(columns)
    out = np.full(columns + 1, np.nan, np.float32)
    return Case(what, (z.ravel(), np.array(lse, np.float32), splits, out), columns, np.append(merged, whole))


def _mean(case: Case) -> Array:
    z, lse, splits, _ = case.arguments
    return np.append(z.reshape(splits, -1).mean(0), case.truth[-1])


P6 = Puzzle(
    "p6",
    "the merge of the splits",
    merge_splits,
    (
        "exp(1000) overflows. Subtract the largest lse_s from all of them first, as the softmax does with its scores.",
        "Two passes over the splits: one for the largest lse_s, one for Σ exp(lse_s − largest) and Σ exp(…) z_s.",
    ),
    lambda: (
        _merge_case("two splits that count equally", [0.5, 0.5]),
        _merge_case("three splits, one of which has seen nothing", [1.0, -math.inf, 2.0]),
        _merge_case("lse of a thousand", [1000.0, 999.0]),
        _merge_case("no split has seen a key", [-math.inf, -math.inf]),
    ),
    (("a split counts by exp(lse_s): the mean of the splits is taken here", _mean),),
)

# ---- p7


def shared_scores(queries, keys, n_maps, out):
    """Compute the scores of one query of each map with all keys, and read the cache only once.

    queries is flat, (n_maps, 4), keys (n_keys, 4); out is flat, (n_maps, n_keys). There is one thread per key. All maps
    share the keys, as in GTA: a thread that has read an element of its key uses it for every map. The queries are read
    from global memory once per block: put them into shared memory first.
    """
    shared = cuda.shared.array(32, float32)  # room for eight maps
    t, n_keys = cuda.threadIdx.x, cuda.blockDim.x
    # BEGIN SOLUTION
    for e in range(t, 4 * n_maps, n_keys):
        shared[e] = queries[e]
    cuda.syncthreads()
    k0, k1, k2, k3 = keys[4 * t], keys[4 * t + 1], keys[4 * t + 2], keys[4 * t + 3]
    for m in range(n_maps):
        q = 4 * m
        out[m * n_keys + t] = shared[q] * k0 + shared[q + 1] * k1 + shared[q + 2] * k2 + shared[q + 3] * k3
    # END SOLUTION


def _shared_case(what: str, n_maps: int, n_keys: int) -> Case:
    rng = np.random.default_rng(n_maps)
    q, k = (rng.integers(-3, 4, (n, 4)).astype(np.float32) for n in (n_maps, n_keys))
    out = np.full(n_maps * n_keys, np.nan, np.float32)
    return Case(
        what, (q.ravel(), k.ravel(), n_maps, out), n_keys, (q @ k.T).ravel().astype(np.float64), q.size + k.size
    )


P7 = Puzzle(
    "p7",
    "five maps, one cache",
    shared_scores,
    (
        "4 · n_maps elements of the queries have to reach shared memory, whatever the number of threads: a loop from t "
        "in steps of n_keys. Then comes a barrier.",
        "Keep the four elements of the key in four variables, and loop over the maps inside.",
    ),
    lambda: (_shared_case("one map, 8 keys", 1, 8), _shared_case("five maps, 6 keys", 5, 6)),
)

PUZZLES = (P3, P6, P7)
