"""Exercise 3: the shared map, A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h), masked."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import largest, product, softmax
from gta_ref.exercises.trial import Mistake, Trial, normal
from gta_ref.ops import softmax_lse_forward
from gta_ref.ops.heads import repeat_heads

_OVERFLOW = "exp overflows: subtract the row's largest visible score first, which does not change the softmax"
_QUERIES = "the softmax sums over the wrong axis, the queries; the weights of one query have to sum to 1 over the keys"
_BLIND = "the row of a query that sees nothing is 0/0 = NaN; it has to be 0"


def _map_trials() -> list[Trial]:
    rng = np.random.default_rng(103)

    def trial(
        what: str, n_q: int, n_k: int, n_queries: int, n_keys: int, *, dtype: str = "float64", factor: float = 1.0
    ) -> Trial:
        nan = "Perhaps " + (_OVERFLOW if factor > 1 else _BLIND) + "."
        q = normal(rng, 2, n_q, n_queries, 5, dtype=dtype, factor=factor)
        visible = rng.random((2, n_queries, n_keys)) < 0.6
        visible[:, np.arange(n_queries), np.arange(n_queries) % n_keys] = True  # every query sees something
        return Trial(what, (q, normal(rng, 2, n_k, n_keys, 5, dtype=dtype), visible), nan)

    causal = trial("causal, 5 new queries after 60 keys", 4, 1, 5, 65)
    causal.arguments[2][:] = np.arange(65) <= 60 + np.arange(5)[:, None]
    padded = trial("left padding: the first queries of sequence 1 see nothing", 3, 1, 7, 7)
    padded.arguments[2][:] = np.tri(7, dtype=bool)
    padded.arguments[2][1, :, :3] = False
    nothing = trial("float32, one token that sees nothing", 2, 1, 1, 1, dtype="float32")
    nothing.arguments[2][0] = False
    return [
        trial("6 maps on 2 key heads, 5 queries, 7 keys, some hidden", 6, 2, 5, 7),
        trial("a key head for every map", 3, 3, 4, 4),
        trial("one token", 2, 1, 1, 1),
        causal,
        padded,
        trial("scores in the thousands", 4, 2, 7, 7, factor=3000.0),
        trial("float32", 6, 2, 7, 9, dtype="float32"),
        trial("float32, scores in the thousands", 2, 1, 5, 5, dtype="float32", factor=3000.0),
        nothing,
    ]


def _map_truth(q: np.ndarray, k: np.ndarray, visible: np.ndarray) -> np.ndarray:
    scores = q @ repeat_heads(k, q.shape[1]).swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (B, n_q, N_q, N_k)
    return softmax_lse_forward(scores, visible[:, None])[0]


def _map_roundings(q: np.ndarray, k: np.ndarray, visible: np.ndarray) -> float:
    """The sums over d_h of the scores, and the softmax of scores that are off by as much."""
    keys, scale = repeat_heads(k, q.shape[1]).swapaxes(-1, -2), q.shape[-1] ** -0.5
    return largest(softmax(np.where(visible[:, None], q @ keys * scale, -np.inf), product(q, keys) * scale))


def _map_by(
    *,
    scale: Any = lambda q: q.shape[-1] ** -0.5,
    spread: Any = lambda k, n: np.repeat(k, n, 1),
    hide: Any = lambda s, seen: np.where(seen, s, -np.inf),
    weights: Any = lambda s, axis: _shifted(s, axis),
    axis: int = -1,
    after: Any = lambda a, seen: a,
) -> Any:
    """The map with one of its steps replaced."""

    def answer(q: np.ndarray, k: np.ndarray, visible: np.ndarray) -> np.ndarray:
        seen = np.broadcast_to(visible[:, None], (q.shape[0], q.shape[1], *visible.shape[1:]))
        s = q @ spread(k, q.shape[1] // k.shape[1]).swapaxes(-1, -2) * scale(q)
        w = weights(hide(s, seen), axis)
        total = w.sum(axis, keepdims=True)
        return after(np.divide(w, total, out=np.zeros_like(w), where=(total != 0)), seen)

    return answer


def _shifted(s: np.ndarray, axis: int) -> np.ndarray:
    top = s.max(axis, keepdims=True)
    return np.exp(s - np.where(np.isfinite(top), top, 0.0))


def _unnormalised(q: np.ndarray, k: np.ndarray, visible: np.ndarray) -> np.ndarray:
    s = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) * q.shape[-1] ** -0.5
    return _shifted(np.where(visible[:, None], s, -np.inf), -1)


def _blind(value: float) -> Any:
    """Replace the rows of queries that see nothing, by NaN or by the same weight for all keys."""

    def after(a: np.ndarray, seen: np.ndarray) -> np.ndarray:
        nothing = ~seen.any(-1, keepdims=True)
        return np.where(nothing, value / a.shape[-1], a)

    return after


def _overflowing(q: np.ndarray, k: np.ndarray, visible: np.ndarray, guard: bool) -> np.ndarray:
    """Softmax without the shift; with `guard`, a row whose sum is 0 stays 0."""
    s = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) * q.shape[-1] ** -0.5
    w = np.exp(np.where(visible[:, None], s, s.dtype.type(-np.inf)))
    total = w.sum(-1, keepdims=True)
    return np.divide(w, total, out=np.zeros_like(w), where=total != 0) if guard else w / total


EX03 = Exercise(
    name="ex03",
    function="shared_map",
    parameters="q, k, visible",
    results={"map": "B, n_q, N_q, N_k"},
    trials=_map_trials,
    truth=_map_truth,
    roundings=_map_roundings,
    mistakes=(
        Mistake("the scale 1/√d_h is left out", _map_by(scale=lambda q: 1.0)),
        Mistake(
            "what is returned are the scores, without the softmax",
            lambda q, k, visible: q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) * q.shape[-1] ** -0.5,
        ),
        Mistake("every map reads key head 0", _map_by(spread=lambda k, n: np.repeat(k[:, :1], k.shape[1] * n, 1))),
        Mistake(
            "the scale is 1/√N_k, from the number of keys; it is 1/√d_h, from the width of a head",
            lambda q, k, visible: _map_by(scale=lambda q: k.shape[2] ** -0.5)(q, k, visible),
        ),
        Mistake("the exponential is of base 2 instead of e",
                _map_by(weights=lambda s, axis: _shifted(s * np.log(2), axis))),
        Mistake("the weights are not divided by their sum", _unnormalised),
        Mistake("the scores are divided by d_h instead of √d_h", _map_by(scale=lambda q: 1 / q.shape[-1])),
        Mistake("the scores are multiplied by √d_h instead of divided", _map_by(scale=lambda q: q.shape[-1] ** 0.5)),
        Mistake(
            "the scale is that of all heads together, 1/√(n_q·d_h), instead of one head's, 1/√d_h",
            _map_by(scale=lambda q: (q.shape[1] * q.shape[-1]) ** -0.5),
        ),
        Mistake(
            "the key heads are interleaved over the maps (m % n_k); map m reads key head m // (n_q/n_k), as np.repeat "
            "lays them out",
            _map_by(spread=lambda k, n: np.tile(k, (1, n, 1, 1))),
        ),
        Mistake(_QUERIES, _map_by(axis=-2)),
        Mistake(_QUERIES, _map_by(axis=-2, weights=lambda s, axis: _shifted(s, -1))),
        Mistake("the softmax sums over the maps instead of over the keys", _map_by(axis=1)),
        Mistake("nothing is hidden: visible is not used", _map_by(hide=lambda s, seen: s)),
        Mistake("visible is read the wrong way round: True means that a query sees the key",
                _map_by(hide=lambda s, seen: np.where(seen, -np.inf, s))),
        Mistake("hidden scores are set to 0 instead of −∞: e⁰ = 1, so hidden keys still have weight",
                _map_by(hide=lambda s, seen: s * seen)),
        Mistake("the map is masked after the softmax: what is left of a row no longer sums to 1",
                _map_by(hide=lambda s, seen: s, after=lambda a, seen: a * seen)),
        Mistake("a query that sees nothing has its weight spread evenly over all keys; its row has to be 0",
                _map_by(after=_blind(1.0))),
        Mistake(_BLIND, _map_by(after=_blind(np.nan))),
        Mistake(_OVERFLOW, lambda q, k, visible: _overflowing(q, k, visible, guard=True)),
        Mistake(_OVERFLOW, lambda q, k, visible: _overflowing(q, k, visible, guard=False)),
    ),
)  # fmt: skip


EXERCISES = (EX03,)
