"""Wrong implementations of the attention core: the forward and the mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, imprecise, seen_in, wrong
from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps

base = AttentionSteps  # its steps are called as base.step(self, ...)


def _visible_with(**change: Any) -> Callable[..., np.ndarray]:
    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        bounds = {"q_start": q_start, "k_start": k_start, "k_stop": k_stop}
        for name, f in change.items():
            bounds[name] = f(bounds[name], n_k)
        return base.visible(self, bounds["q_start"], bounds["k_start"], bounds["k_stop"], n_q, n_k)

    return visible


def _read_with(**change: Any) -> dict[str, Callable[..., np.ndarray]]:
    """Steps that use other bounds in the mask, and also where unused slots of k and v are left out."""

    def clean(self: AttentionSteps, x: np.ndarray, k_start: Any, k_stop: Any) -> np.ndarray:
        bounds = {"k_start": k_start, "k_stop": k_stop}
        bounds |= {name: f(bounds[name], x.shape[2]) for name, f in change.items()}
        return base.clean(self, x, bounds["k_start"], bounds["k_stop"])

    return {"visible": _visible_with(**change), "clean": clean}


def _none(x: np.ndarray, n: int) -> np.ndarray:
    return np.zeros_like(x)


def _all(x: np.ndarray, n: int) -> np.ndarray:
    return np.full_like(x, n)


def _of_the_first(x: np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(x[:1], x.shape)


def _by_diagonal(rule: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    """A mask whose causal part is `rule` (key, position of the query) instead of ≤; its bounds are right."""

    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        if not self.causal():
            return base.visible(self, q_start, k_start, k_stop, n_q, n_k)
        key, row = np.arange(n_k), q_start[:, None, None] + np.arange(n_q)[:, None]
        used = (key >= k_start[:, None, None]) & (key < k_stop[:, None, None])
        return (used & rule(key, row))[:, None]

    return visible


def _bounds_if_causal(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
    if not self.causal():
        k_start, k_stop = np.zeros_like(k_start), np.full_like(k_stop, n_k)
    return base.visible(self, q_start, k_start, k_stop, n_q, n_k)


def _tiled(self: AttentionSteps, n_q: int, n: int) -> np.ndarray:
    return np.arange(n_q) % n


def _first_head(self: AttentionSteps, n_q: int, n: int) -> np.ndarray:
    return np.zeros(n_q, int)


def _mean_of_heads(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x.mean(1, keepdims=True), x.shape)


def _first_columns(width: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return a[..., :width], b[..., :width]


def _cut_values(self: AttentionSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    return base.context(self, p, np.where(np.arange(v.shape[-1]) < self.keys.shape[-1], v, 0.0))


def _over_queries(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    weights = self.weights(s.swapaxes(-1, -2), seen.swapaxes(-1, -2)).swapaxes(-1, -2)
    total = weights.sum(-2, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _uniform(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    blind = ~seen.any(-1, keepdims=True)
    return np.where(blind, 1 / max(s.shape[-1], 1), base.softmax(self, s, seen))


def _lowered(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores with −10⁴ added where they are masked, rounded as in single precision; and a mask that hides nothing."""
    low = s - 1e4
    if self.settings.get("dtype") != "float64":
        low = low.astype(np.float32).astype(np.float64)
    return np.where(seen, s, low), np.ones(s.shape, bool)


def _without_maximum(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    single = np.float64 if self.settings.get("dtype") == "float64" else np.float32
    return np.where(seen, np.exp(s.astype(single)).astype(np.float64), 0.0)


def _two_units(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    total = np.log(self.weights(s, seen).sum(-1))
    top = np.where(seen.any(-1), base.lse(self, s, seen) - total, 0.0)
    return top / np.log(2) + total


def _transposed(self: AttentionSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (p.swapaxes(-1, -2) if p.shape[-1] == p.shape[-2] else p) @ v


def _token_major(self: AttentionSteps) -> Arrays:
    found = base.attention_case(self)
    return {**found, "z": found["z"].swapaxes(1, 2)}


def _to_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Round to this many significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


def _products_of(bits: int) -> dict[str, Callable[..., Any]]:
    """Steps whose matrix products round their operands to this many significant bits."""

    def rounded(step: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda self, *args: step(self, *(_to_bits(x, bits) if isinstance(x, np.ndarray) else x for x in args))

    steps = ("context", "d_map", "d_k", "d_v")
    return {
        "scores": lambda self, q, k, scale: base.scores(self, _to_bits(q, bits), _to_bits(k, bits), scale),
        "d_q": lambda self, d_s: _to_bits(d_s, bits) @ _to_bits(self.keys, bits) * self.factor,
        **{name: rounded(getattr(base, name)) for name in steps},
    }


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- scores

    wrong("attention", "scores", "scores not scaled by 1/√d_k",
        scale=lambda self, d_k, d_v: 1.0),
    wrong("attention", "scores", "scores scaled by 1/d_k instead of 1/√d_k",
        scale=lambda self, d_k, d_v: 1 / d_k),
    wrong("attention", "scores", "scores scaled by 1/√d_v (GTA: 1/√d_l) instead of 1/√d_k",
        scale=lambda self, d_k, d_v: d_v**-0.5),
    wrong("attention", "scores", "the setting scale ignored: always 1/√d_k",
        scale=lambda self, d_k, d_v: d_k**-0.5),
    wrong("attention", "scores", "scores multiplied by log₂e, but with exp instead of exp2",
        scores=lambda self, q, k, scale: base.scores(self, q, k, scale) * np.log2(np.e)),
    wrong("attention", "scores", "key heads tiled (m % n_k) instead of repeated (m // (n_q/n_k))",
        key_of_map=_tiled),
    wrong("attention", "scores", "key heads and value heads tiled (m % n) instead of repeated",
        key_of_map=_tiled, value_of_map=_tiled),
    wrong("attention", "scores", "every map uses key head 0",
        key_of_map=_first_head),
    wrong("attention", "scores", "every map uses key head 0 and value head 0",
        key_of_map=_first_head, value_of_map=_first_head),
    wrong("attention", "scores", "key heads averaged",
        scores=lambda self, q, k, scale: base.scores(self, q, _mean_of_heads(k), scale)),
    wrong("attention", "scores", "query heads averaged over the maps of a key head",
        scores=lambda self, q, k, scale: base.scores(self, _mean_of_heads(q), k, scale)),
    wrong("attention", "scores", "every sequence of the batch uses the keys of the first",
        scores=lambda self, q, k, scale: base.scores(self, q, np.broadcast_to(k[:1], k.shape), scale)),
    wrong("attention", "scores", "scores summed over the first d_v columns of q and k",
        scores=lambda self, q, k, scale: base.scores(self, *_first_columns(self.values.shape[3], q, k), scale)),
    wrong("attention", "scores", "scores summed over the first 64 columns of q and k",
        scores=lambda self, q, k, scale: base.scores(self, *_first_columns(64, q, k), scale)),
    wrong("attention", "scores", "scores summed over the first 128 columns of q and k",
        scores=lambda self, q, k, scale: base.scores(self, *_first_columns(128, q, k), scale)),
    imprecise("attention", "scores", "matrix products with operands rounded to bfloat16",
        **_products_of(8)),
    imprecise("attention", "scores", "matrix products with operands rounded to TF32 (or float16)",
        **_products_of(11)),
    imprecise("attention", "scores", "float64 inputs computed in float32",
        **_products_of(24)),
    # An implementation that reads unused slots shows it in one of two ways: its result has NaN if the slots hold NaN,
    # else its scores of these slots are not 0. Each way is a separate mutant, so that neither cause is named for the
    # other.
    wrong("attention", "scores map", "NaN of unused slots reaches the result",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), x, base.clean(self, x, k_start, k_stop))),
    wrong("attention", "scores", "content of unused slots in scores and d_map, where they count as 0",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), 0.0, x)),

    # --- mask

    wrong("attention", "map", "masked scores set to 0 instead of −∞",
        softmax=lambda self, s, seen: base.softmax(self, np.where(seen, s, 0.0), np.ones_like(seen))),
    wrong("attention", "map", "masked scores lowered by 10⁴: a row that sees nothing averages by its scores",
        softmax=lambda self, s, seen: base.softmax(self, *_lowered(self, s, seen))),
    wrong("attention", "map", "mask inverted: a query sees just what it should not",
        visible=lambda self, *bounds: ~base.visible(self, *bounds)),
    wrong("attention", "map", "causal mask inverted: a query sees the later keys alone",
        visible=_by_diagonal(np.greater)),
    wrong("attention", "map", "causal mask transposed: a query sees itself and the later keys",
        visible=_by_diagonal(np.greater_equal)),
    wrong("attention", "map", "mask one place too narrow: a query does not see itself",
        visible=_visible_with(q_start=lambda x, n: x - 1)),
    wrong("attention", "map", "mask one place too wide: a query sees the next key",
        visible=_visible_with(q_start=lambda x, n: x + 1)),
    wrong("attention", "map", "causal mask aligned to the start instead of the end",
        visible=_visible_with(q_start=_none)),
    wrong("attention", "map", "q_start ignored: causal mask aligned to the end",
        visible=lambda self, q_start, k_start, k_stop, n_q, n_k: base.visible(
            self, np.full_like(q_start, n_k - n_q), k_start, k_stop, n_q, n_k)),
    wrong("attention", "map", "q_start of the first sequence used for all",
        visible=_visible_with(q_start=_of_the_first)),
    wrong("attention", "map", "causal mask missing",
        causal=lambda self: False),
    wrong("attention", "map", "causal mask where there should be none",
        causal=lambda self: True),
    wrong("attention", "map", "left padding (k_start) ignored in the mask",
        visible=_visible_with(k_start=_none)),
    wrong("attention", "map", "ragged lengths (k_stop) ignored in the mask",
        visible=_visible_with(k_stop=_all)),
    wrong("attention", "scores map", "left padding (k_start) ignored: padded keys and values are read",
        **_read_with(k_start=_none)),
    wrong("attention", "scores map", "ragged lengths (k_stop) ignored: keys and values after the end are read",
        **_read_with(k_stop=_all)),
    wrong("attention", "scores map", "all padding (k_start and k_stop) ignored: keys and values outside are read",
        **_read_with(k_start=_none, k_stop=_all)),
    wrong("attention", "scores map", "k_start and k_stop of the first sequence used for all",
        **_read_with(k_start=_of_the_first, k_stop=_of_the_first)),
    wrong("attention", "map", "padding ignored where the mask is not causal",
        visible=_bounds_if_causal),
    wrong("attention", "map", "k_start off by one: the first key of a padded sequence not seen",
        visible=_visible_with(k_start=lambda x, n: np.where(x > 0, x + 1, x))),
    wrong("attention", "map", "k_stop taken as the last key instead of one past it",
        visible=_visible_with(k_stop=lambda x, n: np.minimum(x + 1, n))),
    wrong("attention", "map", "k_stop off by one: the last key of a ragged sequence not seen",
        visible=_visible_with(k_stop=lambda x, n: np.where(x < n, x - 1, x))),

    # --- map

    wrong("attention", "map", "softmax over the wrong axis (queries)",
        softmax=_over_queries),
    wrong("attention", "map", "softmax weights not divided by their sum",
        softmax=lambda self, s, seen: self.weights(s, seen)),
    wrong("attention", "map", "exp2 of scores that were not multiplied by log₂e",
        softmax=lambda self, s, seen: base.softmax(self, s * np.log(2), seen)),
    seen_in(wrong("attention", "map", "softmax without subtracting the maximum: exp overflows",
        weights=_without_maximum, lse=lambda self, s, seen: np.log(self.weights(s, seen).sum(-1))), dtype="float32"),
    wrong("attention", "map", "a row that sees nothing averages all values",
        softmax=_uniform),
    wrong("attention", "map", "a row that sees nothing is NaN (0/0)",
        softmax=lambda self, s, seen: self.weights(s, seen) / self.weights(s, seen).sum(-1, keepdims=True)),

    # --- context and lse

    wrong("attention", "z", "value heads tiled (m % n_v) instead of repeated",
        value_of_map=_tiled),
    wrong("attention", "z", "every map uses value head 0",
        value_of_map=_first_head),
    wrong("attention", "z", "value heads averaged",
        context=lambda self, p, v: base.context(self, p, _mean_of_heads(v))),
    wrong("attention", "z", "values after the first d_k columns left out",
        context=_cut_values),
    wrong("attention", "z", "values weighted with the transposed map",
        context=_transposed),
    wrong("attention", "z", "z not written: all zeros",
        context=lambda self, p, v: 0.0 * base.context(self, p, v)),
    wrong("attention", "z", "heads and tokens of z swapped: (B, N_q, n_q, d_v)",
        attention_case=_token_major),
    wrong("attention", "lse", "lse in log₂ instead of natural logarithms",
        lse=lambda self, s, seen: base.lse(self, s, seen) / np.log(2)),
    wrong("attention", "lse", "the maximum in lse in log₂, the sum in natural logarithms",
        lse=_two_units),
    wrong("attention", "lse", "subtracted maximum not added back to lse",
        lse=lambda self, s, seen: np.log(self.weights(s, seen).sum(-1))),
    wrong("attention", "lse", "lse of scores before their scale",
        lse=lambda self, s, seen: base.lse(self, s / self.factor, seen)),
    wrong("attention", "lse", "lse with the sign reversed",
        lse=lambda self, s, seen: -base.lse(self, s, seen)),
    wrong("attention", "lse", "lse 0 instead of −∞ in a row that sees nothing",
        lse=lambda self, s, seen: np.where(seen.any(-1), base.lse(self, s, seen), 0.0)),
]
# fmt: on
