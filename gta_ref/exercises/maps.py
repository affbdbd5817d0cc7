"""Exercises 1 to 3: several heads read one map, which head reads what, and the shared map itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise, Mistake, Trial, normal, random_maps
from gta_ref.ops import softmax_lse_forward
from gta_ref.ops.heads import repeat_heads

# --- ex01: heads = maps, repeated, times values -------------------------------------------------------------


def _heads_trials() -> list[Trial]:
    rng = np.random.default_rng(101)

    def trial(what: str, n_q: int, n_h: int, n_queries: int, n_keys: int, dtype: str = "float64") -> Trial:
        maps = random_maps(rng, 2, n_q, n_queries, n_keys, dtype=dtype)
        return Trial(what, (maps, normal(rng, 2, n_h, n_keys, 3, dtype=dtype)))

    blind = trial("a query that sees nothing: its row of the map is 0", 2, 4, 5, 5)
    blind.arguments[0][1, :, 0] = 0.0
    return [
        trial("2 maps, 6 heads", 2, 6, 5, 5),
        trial("3 maps, 6 heads, 7 queries on 65 keys", 3, 6, 7, 65),
        trial("one map for all 4 heads", 1, 4, 5, 5),
        trial("a map for every head", 3, 3, 4, 4),
        trial("one token", 2, 4, 1, 1),
        blind,
        trial("float32", 2, 6, 7, 7, "float32"),
    ]


def _heads_truth(maps: np.ndarray, values: np.ndarray) -> np.ndarray:
    return repeat_heads(maps, values.shape[1]) @ values  # (B, n_h, N_q, d_h)


def _times(maps: np.ndarray, values: np.ndarray) -> int:
    return values.shape[1] // maps.shape[1]


EX01 = Exercise(
    name="ex01",
    function="heads_from_maps",
    parameters="maps, values",
    results={"heads": "B, n_h, N_q, d_h"},
    trials=_heads_trials,
    truth=_heads_truth,
    mistakes=(
        Mistake(
            "heads are interleaved over the maps (head i reads map i % n_q, as np.tile lays them out); here each "
            "map serves a run of heads, i // (n_h/n_q), as np.repeat lays them out",
            lambda maps, values: np.tile(maps, (1, _times(maps, values), 1, 1)) @ values,
        ),
        Mistake("every head reads map 0", lambda maps, values: maps[:, :1] @ values),
        Mistake(
            "the sum goes over the queries: the map is transposed (its rows are queries, its columns keys)",
            lambda maps, values: np.repeat(maps, _times(maps, values), 1).swapaxes(-1, -2) @ values,
        ),
        Mistake(
            "the maps are averaged: every head reads the mean of all maps",
            lambda maps, values: maps.mean(1, keepdims=True) @ values,
        ),
    ),
)


# --- ex02: q(i), k(i), c(i) ---------------------------------------------------------------------------------

SIZES = ((20, 5, 1, 1), (12, 6, 3, 2), (12, 6, 2, 3), (8, 8, 4, 2), (16, 4, 4, 1), (7, 7, 1, 7), (1, 1, 1, 1))


def _readers_truth(n_h: int, n_q: int, n_k: int, n_c: int) -> tuple[np.ndarray, ...]:
    def spread(n: int) -> np.ndarray:
        """The library's own repetition, applied to the numbers of the heads: n to n_q, then n_q to n_h."""
        numbers = np.arange(n).reshape(1, n, 1, 1)
        return repeat_heads(repeat_heads(numbers, n_q), n_h).ravel()

    return spread(n_q), spread(n_k), spread(n_c)


def _readers_by(of_head: Any, of_map: Any) -> Any:
    """A wrong answer from two rules: (i, n_h, n_q) → map, (m, n_q, n) → head."""

    def answer(n_h: int, n_q: int, n_k: int, n_c: int) -> tuple[np.ndarray, ...]:
        m = of_head(np.arange(n_h), n_h, n_q)
        return m, of_map(m, n_q, n_k), of_map(m, n_q, n_c)

    return answer


def _run(i: np.ndarray, n: int, parts: int) -> np.ndarray:
    return i // (n // parts)


def _picture(got: np.ndarray, want: np.ndarray) -> Any:
    from gta_ref.exercises import pictures

    return pictures.readers(got, want)


EX02 = Exercise(
    name="ex02",
    function="who_reads_what",
    parameters="n_h, n_q, n_k, n_c",
    results={"map_of_head": "n_h", "key_of_head": "n_h", "latent_of_head": "n_h"},
    trials=lambda: [Trial("n_h={}, n_q={}, n_k={}, n_c={}".format(*sizes), sizes) for sizes in SIZES],
    truth=_readers_truth,
    draw=_picture,
    mistakes=(
        Mistake(
            "heads are interleaved (i % n_q); GTA's heads read in contiguous runs, i // (n_h/n_q)",
            _readers_by(lambda i, n_h, n_q: i % n_q, lambda m, n_q, n: m % n),
        ),
        Mistake(
            "the maps are interleaved over the key or latent heads (m % n); they too read in contiguous runs, "
            "m // (n_q/n)",
            _readers_by(_run, lambda m, n_q, n: m % n),
        ),
        Mistake(
            "head i is divided by n_q, the number of maps, instead of by n_h/n_q, the number of heads per map",
            _readers_by(lambda i, n_h, n_q: i // n_q, _run),
        ),
        Mistake(
            "map m is divided by the number of key or latent heads instead of by the number of maps that each of them "
            "serves",
            _readers_by(_run, lambda m, n_q, n: m // n),
        ),
        Mistake(
            "the head's own number i, not its map's number m, is divided by n_q/n to find its key and latent head",
            lambda n_h, n_q, n_k, n_c: (
                np.arange(n_h) // (n_h // n_q), np.arange(n_h) // (n_q // n_k), np.arange(n_h) // (n_q // n_c),
            ),
        ),
        Mistake(
            "heads are counted from 1; here they are counted from 0",
            lambda n_h, n_q, n_k, n_c: tuple(x + 1 for x in _readers_by(_run, _run)(n_h, n_q, n_k, n_c)),
        ),
    ),
)  # fmt: skip


# --- ex03: A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h), masked ------------------------------------------------------


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
    mistakes=(
        Mistake("the scale 1/√d_h is left out", _map_by(scale=lambda q: 1.0)),
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


EXERCISES = (EX01, EX02, EX03)
