"""The steps of the attention core, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

Arrays = dict[str, np.ndarray]
Steps = TypeVar("Steps", bound="AttentionSteps")


class AttentionSteps:
    """The attention core in steps. A step accepts and returns arrays.

    Attributes
    ----------
    given : mapping of str to array
        The inputs of the case, in float64, for a step that needs more than its arguments.
    settings : mapping
        The settings of the case.
    """

    given: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    map: np.ndarray  # computed by the last call of attend
    keys: np.ndarray  # with one head for each map
    values: np.ndarray
    seen: np.ndarray
    factor: float

    def case(self) -> Arrays:
        """All arrays of the case."""
        return self.attention_case()

    def visible(self, q_start: np.ndarray, k_start: np.ndarray, k_stop: np.ndarray, n_q: int, n_k: int) -> np.ndarray:
        """(B, 1, N_q, N_k): which query may see which key."""
        row, key = np.arange(n_q)[:, None], np.arange(n_k)[None, :]
        seen = (key >= k_start[:, None, None]) & (key < k_stop[:, None, None])
        if self.causal():
            seen = seen & (key <= q_start[:, None, None] + row)
        return seen[:, None]

    def causal(self) -> bool:
        """Whether a query sees no later key."""
        return self.settings.get("mask", {}).get("causal", True)

    def clean(self, x: np.ndarray, k_start: np.ndarray, k_stop: np.ndarray) -> np.ndarray:
        """Set the slots that are not in use to zero."""
        slot = np.arange(x.shape[2])
        used = (slot >= k_start[:, None]) & (slot < k_stop[:, None])
        return np.where(used[:, None, :, None], x, 0.0)

    def scale(self, d_k: int, d_v: int) -> float:
        """The factor by which scores are scaled."""
        return self.settings.get("scale") or 1 / np.sqrt(d_k)

    def key_of_map(self, n_q: int, n: int) -> np.ndarray:
        """Key head of each map."""
        return np.arange(n_q) // (n_q // n)

    def value_of_map(self, n_q: int, n: int) -> np.ndarray:
        """Value head of each map."""
        return np.arange(n_q) // (n_q // n)

    def scores(self, q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
        """Scaled scores; k has one head for each map."""
        return q @ k.swapaxes(-1, -2) * scale

    def softmax(self, scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """The map; 0 in a row that sees nothing."""
        weights = self.weights(scores, seen)
        total = weights.sum(-1, keepdims=True)
        return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)

    def weights(self, scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """exp(score − largest score of the row) for visible keys, else 0."""
        top = np.where(seen, scores, -np.inf).max(-1, keepdims=True, initial=-np.inf)
        return np.where(seen, np.exp(scores - np.where(np.isfinite(top), top, 0.0)), 0.0)

    def lse(self, scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Natural logarithm of the sum of exp(score) over the visible keys."""
        top = np.where(seen, scores, -np.inf).max(-1, initial=-np.inf)
        return np.where(np.isfinite(top), top, 0.0) * np.isfinite(top) + np.log(self.weights(scores, seen).sum(-1))

    def context(self, p: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Z = A V; v has one head for each map."""
        return p @ v

    def attend(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """Forward: scores, map, z, lse."""
        q_start, k_start, k_stop = bounds
        n_q = q.shape[1]
        k, v = self.clean(k, k_start, k_stop), self.clean(v, k_start, k_stop)
        self.keys = k[:, self.key_of_map(n_q, k.shape[1])]
        self.values = v[:, self.value_of_map(n_q, v.shape[1])]
        self.seen = self.visible(q_start, k_start, k_stop, q.shape[2], k.shape[2])
        self.factor = self.scale(q.shape[3], v.shape[3])
        scores = self.scores(q, self.keys, self.factor)
        p = self.map = self.softmax(scores, self.seen)
        return {"scores": scores, "map": p, "z": self.context(p, self.values), "lse": self.lse(scores, self.seen)}

    def d_map(self, d_z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """dA = dZ Vᵀ."""
        return d_z @ v.swapaxes(-1, -2)

    def d_scores(self, p: np.ndarray, d_p: np.ndarray, d_lse: np.ndarray | None) -> np.ndarray:
        """dS = A (dA − rowsum(A dA) + d_lse)."""
        inner = d_p - self.row_sum(p, d_p)
        return p * (inner if d_lse is None else inner + d_lse[..., None])

    def row_sum(self, p: np.ndarray, d_p: np.ndarray) -> np.ndarray:
        """The term of the gradient that keeps the sum of a row's weights at 1."""
        return (p * d_p).sum(-1, keepdims=True)

    def d_q(self, d_s: np.ndarray) -> np.ndarray:
        """dQ = scale dS K."""
        return d_s @ self.keys * self.factor

    def d_k(self, d_s: np.ndarray, q: np.ndarray) -> np.ndarray:
        """dK of each map, before the maps of a key head are summed."""
        return d_s.swapaxes(-1, -2) @ q * self.factor

    def d_v(self, p: np.ndarray, d_z: np.ndarray) -> np.ndarray:
        """dV of each map, before the maps of a value head are summed."""
        return p.swapaxes(-1, -2) @ d_z

    def gather_k(self, d: np.ndarray, n: int) -> np.ndarray:
        """Sum over the maps of each key head."""
        return self.gather(d, self.key_of_map(d.shape[1], n), n)

    def gather_v(self, d: np.ndarray, n: int) -> np.ndarray:
        """Sum over the maps of each value head."""
        return self.gather(d, self.value_of_map(d.shape[1], n), n)

    def gather(self, d: np.ndarray, head_of_map: np.ndarray, n: int) -> np.ndarray:
        """Sum the maps that use the same head."""
        return np.stack([d[:, head_of_map == h].sum(1) for h in range(n)], axis=1)

    def attend_backward(
        self, d_z: np.ndarray, d_lse: np.ndarray | None, q: np.ndarray, p: np.ndarray, n_k: int, n_v: int
    ) -> Arrays:
        """Backward: d_map, d_scores, d_q, d_k and d_v, the gradient of the values."""
        d_p = self.d_map(d_z, self.values)
        d_s = self.d_scores(p, d_p, d_lse)
        return {
            "d_map": d_p,
            "d_scores": d_s,
            "d_q": self.d_q(d_s),
            "d_k": self.gather_k(self.d_k(d_s, q), n_k),
            "d_v": self.gather_v(self.d_v(p, d_z), n_v),
        }

    def attention_case(self) -> Arrays:
        """All arrays of an attention case."""
        a = self.given
        out = self.attend(a["q"], a["k"], a["v"], (a["q_start"], a["k_start"], a["k_stop"]))
        back = self.attend_backward(a["d_z"], a.get("d_lse"), a["q"], out["map"], a["k"].shape[1], a["v"].shape[1])
        return {**out, **back}


def variant(kind: type[Steps], steps: Mapping[str, Callable[..., Any]]) -> type[Steps]:
    """The class `kind` with some of its steps replaced; a step that it does not have is ignored."""
    return type(kind.__name__, (kind,), {name: step for name, step in steps.items() if hasattr(kind, name)})
