"""Exercise 7: append new tokens to the cache and attend to all that it holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_forward
from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW, largest, product, softmax
from gta_ref.exercises.trial import Mistake, Trial, normal
from gta_ref.ops import rope_angles, rope_forward


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


def _step_roundings(
    q: np.ndarray, k: np.ndarray, c: np.ndarray, held_k: np.ndarray, held_c: np.ndarray, pad: np.ndarray
) -> tuple[float, ...]:
    """RoPE's angles, position times frequency, are off by roundings of the position; then scores, softmax and sum."""
    held, new, d_h = held_k.shape[2], k.shape[2], q.shape[-1]
    turned = FEW + held + new
    positions = np.maximum(0, held + np.arange(new) - pad[:, None])
    new_k, new_c = np.concatenate([held_k, _turn(k, positions)], 2), np.concatenate([held_c, c], 2)
    q, keys, slot = _turn(q, positions), new_k.swapaxes(-1, -2), np.arange(held + new)
    visible = (slot >= pad[:, None, None]) & (slot <= held + np.arange(new)[:, None])
    scores = np.where(visible[:, None], q @ keys * d_h**-0.5, -np.inf)
    off = (product(q, keys) + 2 * turned * (np.abs(q) @ np.abs(keys))) * d_h**-0.5
    z = softmax(scores, off) @ np.abs(new_c)  # (B, n_q, N, d_l)
    return largest(z), turned * largest(np.abs(new_k)), FEW * largest(np.abs(new_c))


def _append(held: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.concatenate([held, new], axis=2)


def _in_front(held: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.concatenate([new, held], axis=2)


def _step_by(
    *,
    positions: Any = lambda held, new, pad: np.maximum(0, held + np.arange(new) - pad[:, None]),
    join: Any = _append,
    cached: Any = None,
    turn: str = "qk",
    first: Any = lambda held: held,
    hidden: Any = lambda key, pad: key >= pad,
    scale: Any = lambda q, c: q.shape[-1] ** -0.5,
    again: bool = False,
    axis: int = -1,
    blind: float = 0.0,
) -> Any:
    """The step with some of its parts replaced; `blind` is the sum of a row that sees nothing."""

    def answer(
        q: np.ndarray, k: np.ndarray, c: np.ndarray, held_k: np.ndarray, held_c: np.ndarray, pad: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        held, new, raw, at_rest = held_k.shape[2], k.shape[2], k, held_k
        at = positions(held, new, pad)
        q, k, c = (_turn(x, at) if name in turn else x for name, x in (("q", q), ("k", k), ("c", c)))
        if again:
            past = np.broadcast_to(np.maximum(0, np.arange(held) - pad[:, None]), (len(q), held))
            held_k = _turn(held_k, past)
        new_k, new_c = join(held_k, k), join(held_c, c)
        key, row = np.arange(held + new), np.arange(new)[:, None]
        seen = (key <= first(held) + row) & hidden(key, pad[:, None, None])  # (B, N, L + N)
        seen = np.broadcast_to(seen[:, None], (*q.shape[:3], held + new))
        s = np.where(seen, q @ new_k.swapaxes(-1, -2) * scale(q, c), -np.inf)
        top = s.max(axis, keepdims=True)
        w = np.exp(s - np.where(np.isfinite(top), top, 0.0))
        total = w.sum(axis, keepdims=True)
        a = np.divide(w, total, out=np.zeros_like(w), where=total > 0)
        a = np.where(seen.any(-1, keepdims=True), a, blind / a.shape[-1])
        return (a @ new_c, new_k, new_c) if cached is None else (a @ new_c, *cached(at_rest, held_c, k, c, raw))

    return answer


EX07 = Exercise(
    name="ex07",
    function="decode_step",
    parameters="q, k, c, held_k, held_c, pad",
    results={"z": "B, n_q, N, d_l", "new_k": "B, 1, L + N, d_h", "new_c": "B, 1, L + N, d_l"},
    trials=_step_trials,
    truth=_step_truth,
    roundings=_step_roundings,
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
        Mistake(
            "the new keys are cached before RoPE has turned them; the cache holds keys that are turned",
            _step_by(cached=lambda held_k, held_c, k, c, raw: (_append(held_k, raw), _append(held_c, c))),
        ),
        Mistake(
            "the new keys are cached before RoPE, and all keys are turned when they are read, so the held ones twice",
            _step_by(
                again=True,
                cached=lambda held_k, held_c, k, c, raw: (_append(held_k, raw), _append(held_c, c)),
            ),
        ),
        Mistake(
            "the new tokens are put in front of the held ones; they belong after them",
            _step_by(join=_in_front),
        ),
        Mistake(
            "positions of padding are negative; they are max(0, L + i − pad)",
            _step_by(positions=lambda held, new, pad: held + np.arange(new) - pad[:, None]),
        ),
        Mistake(
            "all new tokens have the position of the first one; token i is at L + i − pad",
            _step_by(positions=lambda held, new, pad: np.maximum(0, held + 0 * np.arange(new) - pad[:, None])),
        ),
        Mistake(
            "pad is added to the positions; it has to be subtracted",
            _step_by(positions=lambda held, new, pad: held + np.arange(new) + pad[:, None]),
        ),
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
        Mistake("the scores are divided by d_h instead of √d_h", _step_by(scale=lambda q, c: 1 / q.shape[-1])),
        Mistake("the scores are divided by d_l, the latent's width; they should be by √d_h",
                _step_by(scale=lambda q, c: 1 / c.shape[-1])),
        Mistake("the softmax sums over the wrong axis, the queries; each query's weights sum to 1 over the slots",
                _step_by(axis=-2)),
        Mistake(
            "padding counts as positions: the first real token of a padded sequence is at position 0, so subtract pad",
            _step_by(positions=lambda held, new, pad: np.broadcast_to(held + np.arange(new), (len(pad), new))),
        ),
        Mistake("padding is visible: the slots 0 … pad − 1 hold no tokens and have to be hidden",
                _step_by(hidden=lambda key, pad: key >= 0 * pad)),
        Mistake("padding is taken to stand at the end: the slots 0 … pad − 1 hold no tokens, not the last pad",
                _step_by(hidden=lambda key, pad: key < key.size - pad)),
        Mistake("one slot too many is hidden: slot pad holds the first token (pad ≤ j)",
                _step_by(hidden=lambda key, pad: key > pad)),
        Mistake("a query that sees nothing has its weight spread evenly over all slots; its z has to be 0",
                _step_by(blind=1.0)),
        Mistake("the row of a query that sees nothing is 0/0 = NaN; its z has to be 0", _step_by(blind=np.nan)),
        Mistake("only the new keys and latents are returned; the cache has to hold the old ones as well",
                _step_by(cached=lambda held_k, held_c, k, c, raw: (k, c))),
        Mistake("the cache is returned unchanged: the new keys and latents are not appended",
                _step_by(cached=lambda held_k, held_c, k, c, raw: (held_k, held_c))),
    ),
)  # fmt: skip

EXERCISES = (EX07,)
