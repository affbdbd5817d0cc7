"""Exercises 6 and 7: what the cache costs, and a decoding step with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.exercises.exercise import Exercise, Mistake, Trial, normal
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import rope_angles, rope_forward

# --- ex06: bytes of a model's cache -------------------------------------------------------------------------

GTA_1B = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 5, "n_k": 1, "n_c": 1, "d_l": 128}
GQA_1B = {"layers": 54, "n_h": 20, "d_h": 64, "n_q": 20, "n_k": 5}
GROUPED = {"layers": 7, "n_h": 24, "d_h": 10, "n_q": 12, "n_k": 3, "n_c": 4, "d_l": 36}
GTA_160M = {"layers": 24, "n_h": 12, "d_h": 64, "n_q": 6, "n_k": 1, "n_c": 1, "d_l": 128}
MHA = {"layers": 3, "n_h": 6, "d_h": 8, "n_q": 6, "n_k": 6}


def _bytes_truth(model: Mapping[str, int], batch: int, tokens: int, itemsize: int) -> np.ndarray:
    """Computed from the library's structures, whose sizes its tests compare with the bytes really held."""
    m, hidden = model, model["n_h"] * model["d_h"]
    if "d_l" in m:
        config: Any = gta.Config(hidden, m["n_h"], m["d_h"], m["n_q"], m["n_k"], m["n_c"], m["d_l"])
        elements = gta.structure(config).cache_elements
    else:
        elements = gqa.structure(gqa.Config(hidden, m["n_h"], m["d_h"], m["n_k"])).cache_elements
    return np.asarray(elements * m["layers"] * batch * tokens * itemsize)


def _bytes_by(elements: Any, outer: Any = lambda m, b, t, i: m["layers"] * b * t * i) -> Any:
    def answer(model: Mapping[str, int], batch: int, tokens: int, itemsize: int) -> np.ndarray:
        return np.asarray(elements(model) * outer(model, batch, tokens, itemsize))

    return answer


def _elements(m: Mapping[str, int]) -> int:
    values = m["n_c"] * m["d_l"] if "d_l" in m else m["n_k"] * m["d_h"]
    return m["n_k"] * m["d_h"] + values


EX06 = Exercise(
    name="ex06",
    function="cache_bytes",
    parameters="model, batch, tokens, itemsize",
    results={"bytes": ""},
    trials=lambda: [
        Trial("a GTA model with n_k=3, d_h=10, n_c=4, d_l=36; batch 3, 35 tokens, 2 bytes", (GROUPED, 3, 35, 2)),
        Trial("MHA with 6 heads of width 8 (no latent, 2·n_k·d_h); batch 3, 5 tokens, 4 bytes", (MHA, 3, 5, 4)),
        Trial("GTA-1B, batch 1, 2048 tokens, 2 bytes", (GTA_1B, 1, 2048, 2)),
        Trial("GQA-1B, batch 1, 2048 tokens, 2 bytes", (GQA_1B, 1, 2048, 2)),
        Trial("GTA-160M, batch 32, 1,000,000 tokens, 2 bytes", (GTA_160M, 32, 1_000_000, 2)),
        Trial("an empty cache", (GTA_1B, 1, 0, 2)),
    ],
    truth=_bytes_truth,
    mistakes=(
        Mistake(
            "GTA's keys are counted twice, as in MHA's 2·n_k·d_h; GTA caches keys once, and the latent in place of "
            "values: n_k·d_h + n_c·d_l",
            _bytes_by(lambda m: 2 * m["n_k"] * m["d_h"]),
        ),
        Mistake(
            "the sum of keys and latent is doubled; the keys are n_k·d_h, and the latent n_c·d_l replaces the values",
            _bytes_by(lambda m: 2 * _elements(m) if "d_l" in m else _elements(m)),
        ),
        Mistake("the keys are counted for every output head (n_h) instead of every key head (n_k)",
                _bytes_by(lambda m: _elements(m) + (m["n_h"] - m["n_k"]) * m["d_h"])),
        Mistake("keys and values are counted for every output head (n_h): that is MHA's cache",
                _bytes_by(lambda m: 2 * m["n_h"] * m["d_h"])),
        Mistake("the keys are counted for every map (n_q) instead of every key head (n_k)",
                _bytes_by(lambda m: _elements(m) + (m["n_q"] - m["n_k"]) * m["d_h"])),
        Mistake("the latent is counted for every map (n_q) instead of every latent head (n_c)",
                _bytes_by(lambda m: m["n_k"] * m["d_h"] + m["n_q"] * m["d_l"])),
        Mistake("a latent is taken to be as wide as a head (d_h); its width is d_l",
                _bytes_by(lambda m: (m["n_k"] + m["n_c"]) * m["d_h"])),
        Mistake("only the latent is counted; the keys are cached too", _bytes_by(lambda m: m["n_c"] * m["d_l"])),
        Mistake("only the keys are counted; the latent, or the values, are cached too",
                _bytes_by(lambda m: m["n_k"] * m["d_h"])),
        Mistake(
            "keys are padded to the latent's width, n_k·d_l + n_c·d_l, as in the released code's FlashAttention path "
            "(256 elements in GTA-1B); without padding it is n_k·d_h + n_c·d_l (192)",
            _bytes_by(lambda m: (m["n_k"] + m["n_c"]) * m["d_l"]),
        ),
        Mistake("only one layer is counted; every layer has a cache",
                _bytes_by(_elements, lambda m, b, t, i: b * t * i)),
        Mistake("only one sequence is counted; each sequence of the batch has a cache",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * t * i)),
        Mistake("elements are counted instead of bytes: the factor itemsize is missing",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t)),
        Mistake("bits are counted instead of bytes: itemsize is in bytes already",
                _bytes_by(_elements, lambda m, b, t, i: m["layers"] * b * t * i * 8)),
    ),
)  # fmt: skip


# --- ex07: append new tokens and attend to all that is held -------------------------------------------------


def _step_trials() -> list[Trial]:
    rng = np.random.default_rng(107)

    def trial(what: str, held: int, new: int, pad: Any = (0, 0), *, n_q: int = 3, dtype: str = "float64") -> Trial:
        d_h, d_l = 4, 6
        return Trial(
            what,
            (
                normal(rng, 2, n_q, new, d_h, dtype=dtype),
                normal(rng, 2, 1, new, d_h, dtype=dtype),
                normal(rng, 2, 1, new, d_l, dtype=dtype),
                normal(rng, 2, 1, held, d_h, dtype=dtype),
                normal(rng, 2, 1, held, d_l, dtype=dtype),
                np.array(pad),
            ),
        )

    return [
        trial("3 new tokens, 5 held, no padding", 5, 3),
        trial("3 new tokens, 5 held, sequence 1 with 2 slots of padding", 5, 3, (0, 2)),
        trial("one new token, 9 held", 9, 1, (0, 3)),
        trial("prefill: 7 new tokens, an empty cache", 0, 7),
        trial("prefill of padded sequences: the padding's own queries see nothing", 0, 7, (0, 4)),
        trial("one map, 2 new tokens, 64 held", 64, 2, (1, 5), n_q=1),
        trial("float32", 5, 4, (0, 2), dtype="float32"),
    ]


def _turn(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    cos, sin = rope_angles(positions[:, None], x.shape[-1], dtype=x.dtype)  # (B, 1, N, d_h/2)
    return rope_forward(x, cos, sin)[0]


def _step_truth(
    q: np.ndarray, k: np.ndarray, c: np.ndarray, held_k: np.ndarray, held_c: np.ndarray, pad: np.ndarray
) -> tuple[np.ndarray, ...]:
    held, new = held_k.shape[2], k.shape[2]
    positions = np.maximum(0, held + np.arange(new) - pad[:, None])  # (B, N)
    new_k = np.concatenate([held_k, _turn(k, positions)], axis=2)
    new_c = np.concatenate([held_c, c], axis=2)
    mask = Mask(q_start=held, k_start=pad)
    z, _, _ = attention_forward(_turn(q, positions), new_k, new_c, mask=mask, need_saved=False, engine="reference")
    return z, new_k, new_c


def _step_by(
    *,
    positions: Any = lambda held, new, pad: np.maximum(0, held + np.arange(new) - pad[:, None]),
    cached: Any = None,
    turn: str = "qk",
    first: Any = lambda held: held,
    hidden: Any = lambda pad: pad,
    scale: Any = lambda q, c: q.shape[-1] ** -0.5,
    again: bool = False,
) -> Any:
    """The step with some of its parts replaced."""

    def answer(
        q: np.ndarray, k: np.ndarray, c: np.ndarray, held_k: np.ndarray, held_c: np.ndarray, pad: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        held, new = held_k.shape[2], k.shape[2]
        at = positions(held, new, pad)
        q, k, c = (_turn(x, at) if name in turn else x for name, x in (("q", q), ("k", k), ("c", c)))
        if again:
            past = np.broadcast_to(np.maximum(0, np.arange(held) - pad[:, None]), (len(q), held))
            held_k = _turn(held_k, past)
        new_k, new_c = np.concatenate([held_k, k], 2), np.concatenate([held_c, c], 2)
        key, row = np.arange(held + new), np.arange(new)[:, None]
        seen = (key <= first(held) + row) & (key >= hidden(pad)[:, None, None])  # (B, N, L + N)
        s = np.where(seen[:, None], q @ new_k.swapaxes(-1, -2) * scale(q, c), -np.inf)
        top = s.max(-1, keepdims=True)
        w = np.exp(s - np.where(np.isfinite(top), top, 0.0))
        total = w.sum(-1, keepdims=True)
        z = np.divide(w, total, out=np.zeros_like(w), where=total > 0) @ new_c
        return (z, new_k, new_c) if cached is None else (z, *cached(held_k, held_c, k, c))

    return answer


EX07 = Exercise(
    name="ex07",
    function="decode_step",
    parameters="q, k, c, held_k, held_c, pad",
    results={"z": "B, n_q, N, d_l", "new_k": "B, 1, L + N, d_h", "new_c": "B, 1, L + N, d_l"},
    trials=_step_trials,
    truth=_step_truth,
    allowed=("gta_ref.ops.rope",),
    mistakes=(
        Mistake(
            "positions start at 0 in every step; with L tokens held the first new one is at position L",
            _step_by(positions=lambda held, new, pad: np.broadcast_to(np.arange(new), (len(pad), new))),
        ),
        Mistake(
            "positions start at L + 1; they are counted from 0, so L tokens have the positions 0 … L − 1",
            _step_by(positions=lambda held, new, pad: np.maximum(0, held + 1 + np.arange(new) - pad[:, None])),
        ),
        Mistake("the cached keys are turned a second time; they were turned when they were new", _step_by(again=True)),
        Mistake("RoPE turns the latent C as well; only Q and K are turned", _step_by(turn="qkc")),
        Mistake("the queries are not turned by RoPE", _step_by(turn="k")),
        Mistake("the new keys are not turned by RoPE", _step_by(turn="q")),
        Mistake("neither the queries nor the new keys are turned by RoPE", _step_by(turn="")),
        Mistake(
            "the causal mask starts at 0: query i sees the slots up to i, which are old; it has to see all up to L + i",
            _step_by(first=lambda held: 0),
        ),
        Mistake("the new tokens see later ones: the causal mask is missing", _step_by(first=lambda held: 10**6)),
        Mistake("a new token does not see itself: key j is visible for j ≤ L + i",
                _step_by(first=lambda held: held - 1)),
        Mistake("the scale is 1/√d_l, the latent's width; it is 1/√d_h, the width of query and key",
                _step_by(scale=lambda q, c: c.shape[-1] ** -0.5)),
        Mistake("the scale 1/√d_h is left out", _step_by(scale=lambda q, c: 1.0)),
        Mistake(
            "padding counts as positions: the first real token of a padded sequence is at position 0, so subtract pad",
            _step_by(positions=lambda held, new, pad: np.broadcast_to(held + np.arange(new), (len(pad), new))),
        ),
        Mistake("padding is visible: the slots 0 … pad − 1 hold no tokens and have to be hidden",
                _step_by(hidden=lambda pad: 0 * pad)),
        Mistake("only the new keys and latents are returned; the cache has to hold the old ones as well",
                _step_by(cached=lambda held_k, held_c, k, c: (k, c))),
        Mistake("the cache is returned unchanged: the new keys and latents are not appended",
                _step_by(cached=lambda held_k, held_c, k, c: (held_k, held_c))),
    ),
)  # fmt: skip

EXERCISES = (EX06, EX07)
