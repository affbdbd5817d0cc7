"""Wrong implementations of the attention core's backward; their forward is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps

base = AttentionSteps  # its steps are called as base.step(self, ...)


def _transposed(self: AttentionSteps, p: np.ndarray, d_z: np.ndarray) -> np.ndarray:
    return base.d_v(self, p.swapaxes(-1, -2) if p.shape[-1] == p.shape[-2] else p, d_z)


def _first(self: AttentionSteps, d: np.ndarray, n: int) -> np.ndarray:
    return d[:, :: d.shape[1] // n]


def _tiled(self: AttentionSteps, d: np.ndarray, n: int) -> np.ndarray:
    return self.gather(d, np.arange(d.shape[1]) % n, n)


def _first_columns(self: AttentionSteps, d_z: np.ndarray, v: np.ndarray) -> np.ndarray:
    width = self.keys.shape[-1]
    return base.d_map(self, d_z[..., :width], v[..., :width])


def _nan_if_blind(self: AttentionSteps, p: np.ndarray, d_p: np.ndarray, d_lse: np.ndarray | None) -> np.ndarray:
    return np.where(self.seen.any(-1, keepdims=True), base.d_scores(self, p, d_p, d_lse), np.nan)


def _lse_unweighted(self: AttentionSteps, p: np.ndarray, d_p: np.ndarray, d_lse: np.ndarray | None) -> np.ndarray:
    d_s = base.d_scores(self, p, d_p, None)
    return d_s if d_lse is None else d_s + np.where(self.seen, d_lse[..., None], 0.0)


def _without_weights(self: AttentionSteps, p: np.ndarray, d_p: np.ndarray, d_lse: np.ndarray | None) -> np.ndarray:
    inner = d_p - self.row_sum(p, d_p)
    return np.where(self.seen, inner if d_lse is None else inner + d_lse[..., None], 0.0)


def _unmasked(self: AttentionSteps, d_z: np.ndarray, d_lse: np.ndarray | None, q: np.ndarray, *rest: Any) -> Arrays:
    """The map computed again as exp(scores − lse), for all keys."""
    scores = self.scores(q, self.keys, self.factor)
    lse = self.lse(scores, self.seen)[..., None]
    p = np.where(np.isfinite(lse), np.exp(scores - lse), 0.0)
    return base.attend_backward(self, d_z, d_lse, q, p, *rest[1:])


def _values_by_d_scores(self: AttentionSteps, d_z: np.ndarray, *rest: Any) -> Arrays:
    back = base.attend_backward(self, d_z, *rest)
    return {**back, "d_v": self.gather_v(self.d_v(back["d_scores"], d_z), back["d_v"].shape[1])}


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    wrong("attention", "d_map", "gradient of the map computed with the wrong value head",
        d_map=lambda self, d_z, v: base.d_map(self, d_z, v[:, ::-1])),
    wrong("attention", "d_map", "gradient of the map summed over the first d_k columns of the values",
        d_map=_first_columns),
    wrong("attention", "d_scores", "row-sum term missing in the softmax's backward",
        row_sum=lambda self, p, d_p: 0.0),
    wrong("attention", "d_scores", "row-sum term without the weights: Σ dA instead of Σ A dA",
        row_sum=lambda self, p, d_p: d_p.sum(-1, keepdims=True)),
    wrong("attention", "d_scores", "row-sum term added instead of subtracted",
        row_sum=lambda self, p, d_p: -base.row_sum(self, p, d_p)),
    wrong("attention", "d_scores", "softmax's backward without the factor A: dS = dA − Σ A dA",
        d_scores=_without_weights),
    wrong("attention", "d_scores", "gradients NaN in rows that see nothing, although the forward is right",
        d_scores=_nan_if_blind),
    wrong("attention", "d_scores d_v", "map computed again in the backward without its mask",
        attend_backward=_unmasked),
    wrong("attention", "d_scores", "gradient through lse left out",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None)),
    wrong("attention", "d_scores", "gradient through lse with the wrong sign",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None if d_lse is None else -d_lse)),
    wrong("attention", "d_scores", "gradient through lse not weighted by the map",
        d_scores=_lse_unweighted),
    wrong("attention", "d_q", "scale missing in d_q",
        d_q=lambda self, d_s: base.d_q(self, d_s) / self.factor),
    wrong("attention", "d_q", "scale applied twice in d_q",
        d_q=lambda self, d_s: base.d_q(self, d_s) * self.factor),
    wrong("attention", "d_k", "scale missing in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) / self.factor),
    wrong("attention", "d_k", "scale applied twice in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) * self.factor),
    wrong("attention", "d_k", "d_k of the first map only, not summed over the maps of a key head",
        gather_k=_first),
    wrong("attention", "d_k", "d_k averaged over the maps of a key head",
        gather_k=lambda self, d, n: base.gather_k(self, d, n) * n / d.shape[1]),
    wrong("attention", "d_k", "d_k of tiled heads (m % n_k), although the forward repeats them",
        gather_k=_tiled),
    wrong("attention", "d_k", "d_k of every map, not summed over the maps of a key head",
        gather_k=lambda self, d, n: d),
    wrong("attention", "d_v", "d_v of the first map only, not summed over the maps of a value head",
        gather_v=_first),
    wrong("attention", "d_v", "d_v averaged over the maps of a value head",
        gather_v=lambda self, d, n: base.gather_v(self, d, n) * n / d.shape[1]),
    wrong("attention", "d_v", "d_v of tiled heads (m % n_v), although the forward repeats them",
        gather_v=_tiled),
    wrong("attention", "d_v", "d_v of every map, not summed over the maps of a value head",
        gather_v=lambda self, d, n: d),
    wrong("attention", "d_v", "d_v with the transposed map",
        d_v=_transposed),
    wrong("attention", "d_v", "d_v weighted with the gradient of the scores instead of the map",
        attend_backward=_values_by_d_scores),
]
# fmt: on
