"""Exercises 1 and 2: several heads read one map, and which head reads what."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import largest, product
from gta_ref.exercises.trial import Mistake, Trial, normal, random_maps
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


def _heads_roundings(maps: np.ndarray, values: np.ndarray) -> float:
    """One sum over the keys."""
    return largest(product(repeat_heads(maps, values.shape[1]), values))


def _softmax(x: np.ndarray) -> np.ndarray:
    w = np.exp(x - x.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def _times(maps: np.ndarray, values: np.ndarray) -> int:
    return values.shape[1] // maps.shape[1]


EX01 = Exercise(
    name="ex01",
    function="heads_from_maps",
    parameters="maps, values",
    results={"heads": "B, n_h, N_q, d_h"},
    trials=_heads_trials,
    truth=_heads_truth,
    roundings=_heads_roundings,
    mistakes=(
        Mistake(
            "heads are interleaved over the maps (head i reads map i % n_q, as np.tile lays them out); here each "
            "map serves a run of heads, i // (n_h/n_q), as np.repeat lays them out",
            lambda maps, values: np.tile(maps, (1, _times(maps, values), 1, 1)) @ values,
        ),
        Mistake("every head reads map 0", lambda maps, values: maps[:, :1] @ values),
        Mistake("every head reads the last map", lambda maps, values: maps[:, -1:] @ values),
        Mistake(
            "the maps are in the reverse order: the first run of heads reads map 0",
            lambda maps, values: np.repeat(maps[:, ::-1], _times(maps, values), 1) @ values,
        ),
        Mistake(
            "the sum goes over the queries: the map is transposed (its rows are queries, its columns keys)",
            lambda maps, values: np.repeat(maps, _times(maps, values), 1).swapaxes(-1, -2) @ values,
        ),
        Mistake(
            "the maps are averaged: every head reads the mean of all maps",
            lambda maps, values: maps.mean(1, keepdims=True) @ values,
        ),
        Mistake(
            "the maps are added: every head reads the sum of all maps",
            lambda maps, values: maps.sum(1, keepdims=True) @ values,
        ),
        Mistake(
            "a softmax is applied to the maps, which are weights already",
            lambda maps, values: _softmax(np.repeat(maps, _times(maps, values), 1)) @ values,
        ),
        Mistake(
            "the rows of the maps are normalised again; in the row of a query that sees nothing that is 0/0 = NaN",
            lambda maps, values: np.repeat(maps / maps.sum(-1, keepdims=True), _times(maps, values), 1) @ values,
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


def _by_head(n_h: int, n_q: int, n_k: int, n_c: int) -> tuple[np.ndarray, ...]:
    """Key and latent heads from runs of n_h/n heads, without the map between: right if n divides n_q, as it does."""
    i = np.arange(n_h)
    return i // (n_h // n_q), i // (n_h // n_k), i // (n_h // n_c)


def _changed(**change: Any) -> Any:
    """A wrong answer in which some of the three results, map, key and latent, are computed by another rule."""

    def answer(n_h: int, n_q: int, n_k: int, n_c: int) -> tuple[np.ndarray, ...]:
        i = np.arange(n_h)
        right = dict(zip(("map", "key", "latent"), _by_head(n_h, n_q, n_k, n_c), strict=True))
        return tuple(
            {**right, **{name: rule(i, right["map"], n_h, n_q, n_k, n_c) for name, rule in change.items()}}.values()
        )

    return answer


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
        Mistake(
            "the maps are interleaved over the key heads (m % n_k), though not over the latent heads",
            _changed(key=lambda i, m, n_h, n_q, n_k, n_c: m % n_k),
        ),
        Mistake(
            "the maps are interleaved over the latent heads (m % n_c), though not over the key heads",
            _changed(latent=lambda i, m, n_h, n_q, n_k, n_c: m % n_c),
        ),
        Mistake(
            "the key and latent heads are interleaved over the output heads (i % n_k, i % n_c)",
            _changed(
                key=lambda i, m, n_h, n_q, n_k, n_c: i % n_k, latent=lambda i, m, n_h, n_q, n_k, n_c: i % n_c,
            ),
        ),
        Mistake(
            "key and latent heads are exchanged: the second result is the key head, the third the latent head",
            lambda n_h, n_q, n_k, n_c: tuple(_by_head(n_h, n_q, n_k, n_c)[i] for i in (0, 2, 1)),
        ),
        Mistake(
            "the latent head is the key head; latent heads have a number of their own, n_c",
            lambda n_h, n_q, n_k, n_c: tuple(_by_head(n_h, n_q, n_k, n_c)[i] for i in (0, 1, 1)),
        ),
        Mistake(
            "the key head is the map: the n_k key heads are shared by runs of n_q/n_k maps",
            lambda n_h, n_q, n_k, n_c: tuple(_by_head(n_h, n_q, n_k, n_c)[i] for i in (0, 0, 2)),
        ),
        Mistake(
            "each map has a key and a latent head of its own, m; runs of n_q/n_k and n_q/n_c maps share one",
            _readers_by(_run, lambda m, n_q, n: m),
        ),
        Mistake(
            "the division keeps its remainder: use //, which drops it",
            lambda n_h, n_q, n_k, n_c: tuple(np.arange(n_h) / n_h * n for n in (n_q, n_k, n_c)),
        ),
        Mistake(
            "the division is rounded to the nearest number; it has to be rounded down, as // does",
            lambda n_h, n_q, n_k, n_c: tuple(np.round(np.arange(n_h) / n_h * n) for n in (n_q, n_k, n_c)),
        ),
    ),
)  # fmt: skip

EXERCISES = (EX01, EX02)
