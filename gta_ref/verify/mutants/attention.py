"""Wrong implementations of the attention core, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import AttentionSteps

base = AttentionSteps  # its steps are called as base.step(self, ...)


def _visible_with(**change: Any) -> Callable[..., np.ndarray]:
    def visible(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        bounds = {"q_start": q_start, "k_start": k_start, "k_stop": k_stop}
        for name, f in change.items():
            bounds[name] = f(bounds[name], n_k)
        return base.visible(self, bounds["q_start"], bounds["k_start"], bounds["k_stop"], n_q, n_k)

    return visible


def _tiled(self: AttentionSteps, n_q: int, n: int) -> np.ndarray:
    return np.arange(n_q) % n


def _over_queries(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    top = np.where(seen, s, -np.inf).max(-2, keepdims=True, initial=-np.inf)
    weights = np.where(seen, np.exp(s - np.where(np.isfinite(top), top, 0.0)), 0.0)
    total = weights.sum(-2, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _uniform(self: AttentionSteps, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    blind = ~seen.any(-1, keepdims=True)
    return np.where(blind, 1 / max(s.shape[-1], 1), base.softmax(self, s, seen))


def _whole_tiles(self: AttentionSteps, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
    seen = base.visible(self, q_start, k_start, k_stop, n_q, n_k)
    return seen & (np.arange(n_k) < max(n_k // 16 * 16, min(n_k, 16)))


def _stale(self: AttentionSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Online softmax over tiles of 8 keys that does not rescale its sums when a larger score arrives."""
    tiles = [slice(i, i + 8) for i in range(0, p.shape[-1], 8)]
    top = np.zeros((*p.shape[:-1], 1))
    total, z = np.zeros_like(top), np.zeros((*p.shape[:-1], v.shape[-1]))
    for tile in tiles:
        new = np.maximum(top, p[..., tile].max(-1, keepdims=True, initial=0.0))
        weight = np.divide(p[..., tile], new, out=np.zeros_like(p[..., tile]), where=new > 0)
        total, z, top = total + weight.sum(-1, keepdims=True), z + base.context(self, weight, v[:, :, tile]), new
    return np.divide(z, total, out=np.zeros_like(z), where=total > 0)


def _transposed(self: AttentionSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    if p.shape[-1] != p.shape[-2]:
        return np.einsum("bmij,bmjd->bmid", p, v)
    return np.einsum("bmji,bmjd->bmid", p, v)


def _transposed_square(self: AttentionSteps, p: np.ndarray, d_z: np.ndarray) -> np.ndarray:
    return base.d_v(self, p.swapaxes(-1, -2) if p.shape[-1] == p.shape[-2] else p, d_z)


def _first(self: AttentionSteps, d: np.ndarray, n: int) -> np.ndarray:
    return d[:, :: d.shape[1] // n]


def _averaged_queries(self: AttentionSteps, q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    return base.scores(self, np.broadcast_to(q.mean(1, keepdims=True), q.shape), k, scale)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- forward of the attention core

    wrong("attention", "scores", "scores not scaled by 1/√d_k",
        scale=lambda self, d_k, d_v: 1.0),
    wrong("attention", "scores", "scores scaled by 1/d_k instead of 1/√d_k",
        scale=lambda self, d_k, d_v: 1 / d_k),
    wrong("attention", "scores", "scores scaled by 1/√d_v (GTA: 1/√d_l) instead of 1/√d_k",
        scale=lambda self, d_k, d_v: d_v**-0.5),
    wrong("attention", "scores", "scores multiplied by log₂e, but with exp instead of exp2",
        scores=lambda self, q, k, scale: base.scores(self, q, k, scale) * np.log2(np.e)),
    wrong("attention", "scores", "key heads tiled (m % n_k) instead of repeated (m // (n_q/n_k))",
        key_of_map=_tiled),
    wrong("attention", "scores", "every map uses key head 0",
        key_of_map=lambda self, n_q, n: np.zeros(n_q, int)),
    wrong("attention", "scores", "query heads averaged over the maps of a key head",
        scores=_averaged_queries),
    wrong("attention", "map", "softmax over the wrong axis (queries)",
        softmax=_over_queries),
    wrong("attention", "map", "softmax weights not divided by their sum",
        softmax=lambda self, s, seen: self.weights(s, seen)),
    wrong("attention", "map", "masked scores set to 0 instead of −∞",
        softmax=lambda self, s, seen: base.softmax(self, np.where(seen, s, 0.0), np.ones_like(seen))),
    wrong("attention", "map", "mask one place too narrow: a query does not see itself",
        visible=_visible_with(q_start=lambda x, n: x - 1)),
    wrong("attention", "map", "mask one place too wide: a query sees the next key",
        visible=_visible_with(q_start=lambda x, n: x + 1)),
    wrong("attention", "map", "causal mask aligned to the start instead of the end",
        visible=_visible_with(q_start=lambda x, n: np.zeros_like(x))),
    wrong("attention", "map", "causal mask missing",
        causal=lambda self: False),
    wrong("attention", "map", "causal mask where there should be none",
        causal=lambda self: True),
    wrong("attention", "map", "left padding (k_start) ignored in the mask",
        visible=_visible_with(k_start=lambda x, n: np.zeros_like(x))),
    wrong("attention", "map", "ragged lengths (k_stop) ignored in the mask",
        visible=_visible_with(k_stop=lambda x, n: np.full_like(x, n))),
    wrong("attention", "map", "k_stop taken as the last key instead of one past it",
        visible=_visible_with(k_stop=lambda x, n: np.minimum(x + 1, n))),
    wrong("attention", "map", "a row that sees nothing averages all values",
        softmax=_uniform),
    wrong("attention", "map", "a row that sees nothing is NaN (0/0)",
        softmax=lambda self, s, seen: self.weights(s, seen) / self.weights(s, seen).sum(-1, keepdims=True)),
    wrong("attention", "map", "keys after the last whole tile of 16 dropped",
        visible=_whole_tiles),
    # An implementation that reads unused slots shows it in one of two ways: its result has NaN if the slots hold NaN,
    # else its scores of these slots are not 0. Each way is a separate mutant, so that neither cause is named for the
    # other.
    wrong("attention", "scores", "NaN of unused slots reaches the result",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), x, base.clean(self, x, k_start, k_stop))),
    wrong("attention", "scores", "content of unused slots in scores and d_map, where they count as 0",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), 0.0, x)),
    wrong("attention", "z", "value heads tiled (m % n_v) instead of repeated",
        value_of_map=_tiled),
    wrong("attention", "z", "every map uses value head 0",
        value_of_map=lambda self, n_q, n: np.zeros(n_q, int)),
    wrong("attention", "z", "partial sums not rescaled when the running maximum grows",
        context=_stale),
    wrong("attention", "z", "values weighted with the transposed map",
        context=_transposed),
    wrong("attention", "lse", "lse in log₂ instead of natural logarithms",
        lse=lambda self, s, seen: base.lse(self, s, seen) / np.log(2)),
    wrong("attention", "lse", "subtracted maximum not added back to lse",
        lse=lambda self, s, seen: np.log(self.weights(s, seen).sum(-1))),

    # --- backward of the attention core

    wrong("attention", "d_map", "gradient of the map computed with the wrong value head",
        d_map=lambda self, d_z, v: base.d_map(self, d_z, v[:, ::-1])),
    wrong("attention", "d_scores", "row-sum term missing in the softmax's backward",
        row_sum=lambda self, p, d_p: 0.0),
    wrong("attention", "d_scores", "row-sum term without the weights: Σ dA instead of Σ A dA",
        row_sum=lambda self, p, d_p: d_p.sum(-1, keepdims=True)),
    wrong("attention", "d_scores", "row-sum term added instead of subtracted",
        row_sum=lambda self, p, d_p: -base.row_sum(self, p, d_p)),
    wrong("attention", "d_scores", "gradient through lse left out",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None)),
    wrong("attention", "d_scores", "gradient through lse with the wrong sign",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None if d_lse is None else -d_lse)),
    wrong("attention", "d_q", "scale missing in d_q",
        d_q=lambda self, d_s: base.d_q(self, d_s) / self.factor),
    wrong("attention", "d_k", "scale missing in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) / self.factor),
    wrong("attention", "d_k", "scale applied twice in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) * self.factor),
    wrong("attention", "d_k", "d_k of the first map only, not summed over the maps of a key head",
        gather_k=_first),
    wrong("attention", "d_v", "d_v of the first map only, not summed over the maps of a value head",
        gather_v=_first),
    wrong("attention", "d_v", "d_v averaged over the maps of a value head",
        gather_v=lambda self, d, n: base.gather_v(self, d, n) * n / d.shape[1]),
    wrong("attention", "d_v", "d_v with the transposed map",
        d_v=_transposed_square),
]
# fmt: on
