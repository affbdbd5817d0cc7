"""Exercises 10 and 11: merging two partial results, and attention in tiles with the online softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.exercises.exercise import Exercise, Memory, Mistake, Trial, normal

# --- ex10: two halves of the keys ---------------------------------------------------------------------------


_OVERFLOW = (
    "exp overflows, or underflows to 0/0, because the larger lse is not subtracted first: only the difference of the "
    "two matters"
)
_BOTH = "−∞ − −∞ gives NaN in a row that saw nothing in either part; such a row has z = 0 and lse = −∞"


def _merge_trials() -> list[Trial]:
    rng = np.random.default_rng(110)

    def trial(what: str, *shape: int, shift: float = 0.0, dtype: str = "float64") -> Trial:
        batch, n, length = shape
        return Trial(
            what,
            (
                normal(rng, batch, n, length, 4, dtype=dtype),
                (shift + normal(rng, batch, n, length, factor=2.0)).astype(dtype),
                normal(rng, batch, n, length, 4, dtype=dtype),
                (shift + normal(rng, batch, n, length, factor=2.0)).astype(dtype),
            ),
            f"Perhaps {_OVERFLOW}.",
        )

    def blind(what: str, dtype: str = "float64") -> Trial:
        """Rows 0 and 2 saw nothing in the first part, rows 1 and 2 nothing in the second."""
        one = trial(what, 2, 3, 5, dtype=dtype)
        z1, lse1, z2, lse2 = one.arguments
        for z, lse, rows in ((z1, lse1, (0, 2)), (z2, lse2, (1, 2))):
            z[:, :, rows], lse[:, :, rows] = 0.0, -np.inf
        return Trial(what, one.arguments, f"Perhaps {_BOTH}.")

    return [
        trial("3 maps, 5 queries", 2, 3, 5),
        trial("one query of one map", 1, 1, 1),
        trial("65 queries", 1, 2, 65),
        trial("lse near 1000", 2, 2, 7, shift=1000.0),
        trial("lse near −1000", 2, 2, 7, shift=-1000.0),
        blind("rows that saw nothing in one part, or in both: lse = −∞ and z = 0"),
        trial("float32, lse near 300", 2, 2, 7, shift=300.0, dtype="float32"),
        blind("float32, rows that saw nothing", dtype="float32"),
    ]


def _merge_truth(z1: np.ndarray, lse1: np.ndarray, z2: np.ndarray, lse2: np.ndarray) -> tuple[np.ndarray, ...]:
    """The attention core with two keys, whose scores are the two lse and whose values are the two z."""
    shape, d = lse1.shape, z1.shape[-1]
    scores = np.stack([lse1, lse2], -1).reshape(-1, 2)  # (rows, 2)
    values = np.stack([z1, z2], -2).reshape(-1, 1, 2, d)
    seen = ~np.isneginf(scores)
    # each query consists of its scores, because the keys are unit vectors; bounds replace −∞, so each row is a sequence
    q = np.where(seen, scores, 0)[:, None, None]  # (rows, 1, 1, 2)
    keys = np.broadcast_to(np.eye(2, dtype=q.dtype), (len(q), 1, 2, 2))
    first = np.where(seen[:, 0], 0, 1)
    stop = np.where(seen[:, 1], 2, 1)
    mask = Mask(causal=False, k_start=first, k_stop=stop)
    z, lse, _ = attention_forward(q, keys, values, mask=mask, scale=1.0, need_saved=False, engine="reference")
    return z.reshape(*shape, d), lse.reshape(shape)


def _merge_by(*, weights: Any = None, lse: Any = None, divide: bool = True) -> Any:
    """The merged result with one of its steps replaced."""

    def answer(z1: np.ndarray, lse1: np.ndarray, z2: np.ndarray, lse2: np.ndarray) -> tuple[np.ndarray, ...]:
        top = np.maximum(lse1, lse2)
        top = np.where(np.isfinite(top), top, 0.0)
        w1, w2 = (np.exp(lse1 - top), np.exp(lse2 - top)) if weights is None else weights(lse1, lse2)
        total = w1 + w2
        z = w1[..., None] * z1 + w2[..., None] * z2
        if divide:
            z = np.divide(z, total[..., None], out=np.zeros_like(z), where=(total != 0)[..., None])
        return z, (top + np.log(total) if lse is None else lse(lse1, lse2, top, total))

    return answer


def _naive(z1: np.ndarray, lse1: np.ndarray, z2: np.ndarray, lse2: np.ndarray) -> tuple[np.ndarray, ...]:
    w1, w2 = np.exp(lse1), np.exp(lse2)
    total = w1 + w2
    return (w1[..., None] * z1 + w2[..., None] * z2) / total[..., None], np.log(total)


def _both_blind(z1: np.ndarray, lse1: np.ndarray, z2: np.ndarray, lse2: np.ndarray) -> tuple[np.ndarray, ...]:
    top = np.maximum(lse1, lse2)
    w1, w2 = np.exp(lse1 - top), np.exp(lse2 - top)  # −∞ − −∞ is NaN
    return (w1[..., None] * z1 + w2[..., None] * z2) / (w1 + w2)[..., None], top + np.log(w1 + w2)


EX10 = Exercise(
    name="ex10",
    function="merge",
    parameters="z1, lse1, z2, lse2",
    results={"z": "B, n_q, N, d", "lse": "B, n_q, N"},
    trials=_merge_trials,
    truth=_merge_truth,
    mistakes=(
        Mistake("the two results are averaged; each should be weighted by the sum of its part, exp(lse)",
                _merge_by(weights=lambda a, b: (np.full_like(a, 0.5), np.full_like(a, 0.5)))),
        Mistake("the two results are added without weights", _merge_by(weights=lambda a, b: (1 + 0 * a, 1 + 0 * b),
                                                                       divide=False)),
        Mistake("the weights are the lse themselves; they should be exp(lse), because lse is a logarithm",
                _merge_by(weights=lambda a, b: (a, b))),
        Mistake("the result is not divided by the sum of the weights", _merge_by(divide=False)),
        Mistake("the weights are swapped: the first result is weighted by the second lse",
                _merge_by(weights=lambda a, b: (np.exp(b - np.maximum(a, b)), np.exp(a - np.maximum(a, b))))),
        Mistake("the weights are powers of 2; lse is a natural logarithm",
                _merge_by(weights=lambda a, b: (np.exp2(a - np.maximum(a, b)), np.exp2(b - np.maximum(a, b))))),
        Mistake("lse is the larger of the two; it should be log(exp(lse1) + exp(lse2))",
                _merge_by(lse=lambda a, b, top, total: np.maximum(a, b))),
        Mistake("lse is the sum of the two; it should be log(exp(lse1) + exp(lse2))",
                _merge_by(lse=lambda a, b, top, total: a + b)),
        Mistake("lse lacks the larger lse, which was subtracted before exp and has to be added back",
                _merge_by(lse=lambda a, b, top, total: np.log(total))),
        Mistake("lse is in powers of 2; it is a natural logarithm",
                _merge_by(lse=lambda a, b, top, total: np.log2(np.exp(a - top) + np.exp(b - top)) + top)),
        Mistake(_BOTH, _both_blind),
        Mistake(_OVERFLOW, _naive),
    ),
)  # fmt: skip


# --- ex11: keys in tiles, without a whole map ---------------------------------------------------------------


_NOTHING = "−∞ − −∞ gives NaN in a row that sees nothing in a tile; such a row has z = 0 and lse = −∞"


def _tile_trials() -> list[Trial]:
    rng = np.random.default_rng(111)

    def trial(
        what: str, n_queries: int, n_keys: int, tile: int, *, dtype: str = "float64", factor: float = 1.5,
        shift: float = 0.0,
    ) -> Trial:  # fmt: skip
        q, k = (normal(rng, n, 4, dtype=dtype, factor=factor) for n in (n_queries, n_keys))
        if shift:  # a feature that shifts all scores by about the same amount
            q[:, 0], k[:, 0] = shift, abs(shift) + rng.standard_normal(n_keys) / abs(shift)
        return Trial(what, (q, k, normal(rng, n_keys, 5, dtype=dtype), tile), f"Perhaps {_NOTHING}.")

    return [
        trial("5 queries, 12 keys, tiles of 4", 5, 12, 4),
        trial("7 queries, 13 keys, tiles of 4: the last tile has one key", 7, 13, 4),
        trial("65 queries and keys, tiles of 16", 65, 65, 16),
        trial("one query, one key, tiles of 8", 1, 1, 8),
        trial("8 queries, 5 keys: the first 3 queries see nothing", 8, 5, 2),
        trial("scores around 1000", 6, 9, 4, shift=45.0),
        trial("scores around −1000", 6, 9, 4, shift=-45.0),
        trial("float32, tiles of 1", 7, 9, 1, dtype="float32"),
    ]


def _tile_truth(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
    z, lse, _ = attention_forward(
        q[None, None], k[None, None], v[None, None], mask=Mask(), need_saved=False, engine="reference"
    )
    return z[0, 0], lse[0, 0]


def _tile_by(
    *,
    scale: Any = lambda d: d**-0.5,
    first: Any = lambda n_queries, n_keys: n_keys - n_queries,
    whole: bool = False,
    start: float = -np.inf,
    shrink_sum: bool = True,
    shrink_z: bool = True,
    keep_largest: bool = True,
    divide: bool = True,
    lse: Any = lambda largest, total: largest + np.log(total),
    guard: bool = True,
) -> Any:
    """The online softmax with one of its steps replaced."""

    def answer(q: np.ndarray, k: np.ndarray, v: np.ndarray, tile: int) -> tuple[np.ndarray, ...]:
        (n, d), n_keys = q.shape, len(k)
        largest, total, z = np.full(n, start), np.zeros(n), np.zeros((n, v.shape[1]))
        row = first(n, n_keys) + np.arange(n)[:, None]
        for j in range(0, n_keys // tile * tile if whole else n_keys, tile):
            keys = np.arange(j, min(j + tile, n_keys))
            s = np.where(keys <= row, q @ k[keys].T * scale(d), -np.inf)
            new = s.max(1)
            if keep_largest:
                new = np.maximum(largest, new)
            base = np.where(np.isfinite(new), new, 0.0) if guard else new
            shrink, w = np.exp(largest - base), np.exp(s - base[:, None])
            total = total * (shrink if shrink_sum else 1) + w.sum(1)
            z = z * (shrink[:, None] if shrink_z else 1) + w @ v[keys]
            largest = new
        if divide:
            seen = total > 0
            z = np.divide(z, total[:, None], out=np.zeros_like(z), where=seen[:, None]) if guard else z / total[:, None]
        return z, lse(largest, total)

    return answer


def _tile_memory() -> Memory:
    rng, n = np.random.default_rng(211), 1024
    arguments = (normal(rng, n, 4), normal(rng, n, 4), normal(rng, n, 5), 32)
    hint = (
        "a whole map of all queries and keys is formed somewhere. Only one tile's scores, and the running maximum, sum "
        "and z of every query, have to exist at the same time."
    )
    return Memory(Trial(f"{n} queries and keys, tiles of 32", arguments), n * n * 8 // 2, hint)


EX11 = Exercise(
    name="ex11",
    function="attention_in_tiles",
    parameters="q, k, v, tile",
    results={"z": "N_q, d_v", "lse": "N_q"},
    trials=_tile_trials,
    truth=_tile_truth,
    memory=_tile_memory,
    mistakes=(
        Mistake("z is not multiplied by exp(old − new) when a tile brings a larger score", _tile_by(shrink_z=False)),
        Mistake("the sum is not multiplied by exp(old − new) when a tile brings a larger score",
                _tile_by(shrink_sum=False)),
        Mistake("neither sum nor z is multiplied by exp(old − new) when a tile brings a larger score",
                _tile_by(shrink_sum=False, shrink_z=False)),
        Mistake("z is not divided by the sum at the end", _tile_by(divide=False)),
        Mistake("the scale 1/√d is left out", _tile_by(scale=lambda d: 1.0)),
        Mistake("the causal mask is missing: a query sees later keys", _tile_by(first=lambda n, n_keys: 10**6)),
        Mistake(
            "the causal mask is aligned to the start: query i sees the keys up to i; it sees them up to N_k − N_q + i",
            _tile_by(first=lambda n, n_keys: 0),
        ),
        Mistake("a query does not see its own key: j ≤ N_k − N_q + i includes it",
                _tile_by(first=lambda n, n_keys: n_keys - n - 1)),
        Mistake("the keys after the last whole tile are dropped", _tile_by(whole=True)),
        Mistake("the last tile's maximum replaces the running one: it should be max(old, the tile's)",
                _tile_by(keep_largest=False)),
        Mistake("lse is the logarithm of the sum alone; the largest score was subtracted and has to be added back",
                _tile_by(lse=lambda largest, total: np.log(total))),
        Mistake("lse is the sum itself, not its logarithm", _tile_by(lse=lambda largest, total: largest + total)),
        Mistake("lse is the largest score; log(sum) is missing", _tile_by(lse=lambda largest, total: largest)),
        Mistake("lse is in powers of 2; it is a natural logarithm",
                _tile_by(lse=lambda largest, total: largest + np.log2(total))),
        Mistake(
            "the largest starts at 0 instead of −∞: if all scores are far below 0, every exp underflows",
            _tile_by(start=0.0),
        ),
        Mistake(_NOTHING, _tile_by(guard=False)),
        Mistake("the largest starts at 0 instead of −∞: if all scores are far below 0, every exp underflows",
                _tile_by(start=0.0, guard=False)),
    ),
)  # fmt: skip

EXERCISES = (EX10, EX11)
