"""Exercise 10: merging two partial results by their lse."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW, largest
from gta_ref.exercises.trial import Mistake, Trial, normal

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


def _merge_roundings(z1: np.ndarray, lse1: np.ndarray, z2: np.ndarray, lse2: np.ndarray) -> tuple[float, float]:
    """lse is rounded to ε |lse|. A weight exp(lse_p − lse) is then off by that as a relative error, in both terms of z.

    An answer that subtracts the larger lse first is closer, but one that computes lse first is right as well.
    """
    finite = np.concatenate([x[np.isfinite(x)] for x in (lse1, lse2)])
    steps = largest(np.abs(finite))
    return (FEW + 4 * steps) * largest(np.maximum(np.abs(z1), np.abs(z2))), FEW * (1 + steps)


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
    roundings=_merge_roundings,
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
        Mistake("lse is the mean of the two; it should be log(exp(lse1) + exp(lse2))",
                _merge_by(lse=lambda a, b, top, total: (a + b) / 2)),
        Mistake("lse is the logarithm of the mean of the two sums; it should be that of their sum",
                _merge_by(lse=lambda a, b, top, total: top + np.log(total / 2))),
        Mistake("lse is a logarithm of a logarithm: log(lse1 + lse2) in place of log(exp(lse1) + exp(lse2))",
                _merge_by(lse=lambda a, b, top, total: np.log(a + b))),
        Mistake("lse contains log(1 + total); total already has the 1 of the larger part",
                _merge_by(lse=lambda a, b, top, total: top + np.log1p(total))),
        Mistake("lse is the sum itself, not its logarithm", _merge_by(lse=lambda a, b, top, total: top + total)),
        Mistake("lse lacks its sign: the larger lse is subtracted at the end, where it should be added back",
                _merge_by(lse=lambda a, b, top, total: np.log(total) - top)),
        Mistake("the weights are 1/exp(lse): the part with the smaller sum counts more",
                _merge_by(weights=lambda a, b: (np.exp(np.minimum(a, b) - a), np.exp(np.minimum(a, b) - b)))),
        Mistake("z is that of the part with the larger lse alone; both parts count, by their weights",
                _merge_by(weights=lambda a, b: ((a >= b) * (a > -np.inf), (a < b) * 1),
                          lse=lambda a, b, top, total: np.logaddexp(a, b))),
        Mistake(_BOTH, _both_blind),
        Mistake(_OVERFLOW, _naive),
    ),
)  # fmt: skip

EXERCISES = (EX10,)
