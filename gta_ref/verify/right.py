"""Right implementations of the attention core, written apart from the library, each in another way.

They round, order and mask as real kernels do. The self-test requires that all of them pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.ops import as_dtype

Arrays = Mapping[str, np.ndarray]
Results = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # z, lse, d_q, d_k, d_v of every map


@dataclass(frozen=True)
class Problem:
    """An attention case with a key head and a value head for each map.

    Attributes
    ----------
    q, k, v, d_z : arrays (B, n_q, N, width)
        In float32, or float64 for float64 inputs. Slots that are not in use are 0.
    d_lse : array (B, n_q, N_q)
        Zeros if lse has no cotangent.
    seen : bool array (B, 1, N_q, N_k)
    scale : float
    low : dtype
        The dtype of the inputs.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    d_z: np.ndarray
    d_lse: np.ndarray
    seen: np.ndarray
    scale: float
    low: np.dtype

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """The array after it was stored in the dtype of the inputs."""
        return x.astype(self.low).astype(self.q.dtype)


def by_maps(compute: Callable[[Problem], Results], float32_gradients: bool = False) -> Callable[..., dict[str, Any]]:
    """An implementation for the kit from a function that computes every map by itself."""

    def call(arrays: Arrays, settings: Mapping[str, Any]) -> dict[str, Any]:
        low = as_dtype(settings["dtype"])
        work = np.promote_types(low, np.float32)
        q, d_z = (np.asarray(arrays[name]).astype(work) for name in ("q", "d_z"))
        start, stop = arrays["k_start"][:, None], arrays["k_stop"][:, None]
        slot = np.arange(arrays["k"].shape[2])
        used = (start <= slot) & (slot < stop)  # (B, N_k)
        seen = np.repeat(used[:, None], q.shape[2], axis=1)
        if settings["mask"].get("causal", True):
            seen &= slot <= arrays["q_start"][:, None, None] + np.arange(q.shape[2])[:, None]
        used_only = {name: np.where(used[:, None, :, None], arrays[name], 0).astype(work) for name in "kv"}
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in used_only.values())
        d_lse = np.asarray(arrays.get("d_lse", np.zeros(q.shape[:3]))).astype(work)
        scale = settings.get("scale") or 1 / math.sqrt(q.shape[3])
        with np.errstate(all="ignore"):
            z, lse, d_q, d_k, d_v = compute(Problem(q, k, v, d_z, d_lse, seen[:, None], scale, low))
        of_head = {name: _sums(x, arrays[name].shape[1]) for name, x in (("k", d_k), ("v", d_v))}
        gradients = {"d_q": d_q, "d_k": of_head["k"], "d_v": of_head["v"]}
        out = work if float32_gradients else low
        return {"z": z.astype(low), "lse": lse, **{name: x.astype(out) for name, x in gradients.items()}}

    return call


def _sums(x: np.ndarray, heads: int) -> np.ndarray:
    """Sum the maps of each head."""
    summed: np.ndarray = x.reshape(x.shape[0], heads, x.shape[1] // heads, *x.shape[2:]).sum(2)
    return summed


def _t(x: np.ndarray) -> np.ndarray:
    return x.swapaxes(-1, -2)


def _backward(p: Problem, weights: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d_q, d_k and d_v from the map; the row sums come from z, as in FlashAttention."""
    delta = (p.d_z * z).sum(-1, keepdims=True) - p.d_lse[..., None]
    d_s = weights * (p.d_z @ _t(p.v) - delta) * p.q.dtype.type(p.scale)
    return d_s @ p.k, _t(d_s) @ p.q, _t(weights) @ p.d_z


def additive_mask(p: Problem) -> Results:
    """Scores plus a mask of 0 and −∞; rows that see nothing are computed without the mask and then set to 0."""
    blind = ~p.seen.any(-1, keepdims=True)
    scores = p.q @ _t(p.k) * p.q.dtype.type(p.scale) + np.where(p.seen | blind, 0, -np.inf).astype(p.q.dtype)
    weights = np.exp(scores - scores.max(-1, keepdims=True, initial=np.finfo(p.q.dtype).min))
    total = weights.sum(-1, keepdims=True)
    weights = np.where(blind, 0, weights / total).astype(p.q.dtype)
    top = scores.max(-1, keepdims=True, initial=np.finfo(p.q.dtype).min)
    lse = np.where(blind, -np.inf, top + np.log(total))[..., 0]
    z = weights @ p.v
    return (z, lse, *_backward(p, weights, z))


def in_log2(p: Problem) -> Results:
    """exp2 of scores that are scaled by log₂e; lse is turned into natural logarithms at the end."""
    one = p.q.dtype.type
    scores = p.q * one(p.scale * math.log2(math.e)) @ _t(p.k)
    hidden = np.where(p.seen, scores, -np.inf)
    top = hidden.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp2(hidden - np.where(np.isfinite(top), top, 0))
    total = weights.sum(-1, keepdims=True)
    lse = ((top + np.log2(total)) * one(math.log(2)))[..., 0]
    weights = weights / np.where(total > 0, total, 1)
    z = weights @ p.v
    return (z, lse, *_backward(p, weights, z))


def reversed_keys(p: Problem) -> Results:
    """All keys in the reverse order, so that every sum over keys is."""
    back = Problem(p.q, p.k[:, :, ::-1], p.v[:, :, ::-1], p.d_z, p.d_lse, p.seen[..., ::-1], p.scale, p.low)
    z, lse, d_q, d_k, d_v = additive_mask(back)
    return z, lse, d_q, d_k[:, :, ::-1], d_v[:, :, ::-1]


def pairwise(p: Problem) -> Results:
    """Matrix products whose terms are added in pairs, the pairs in pairs, and so on."""

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        terms = [a[..., i, None] * b[..., i, None, :] for i in range(a.shape[-1])]
        while len(terms) > 1:
            terms = [sum(terms[i : i + 2][1:], terms[i]) for i in range(0, len(terms), 2)]
        return terms[0] if terms else np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)

    scores = np.where(p.seen, product(p.q, _t(p.k)) * p.q.dtype.type(p.scale), -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(-1, keepdims=True)
    lse = (top + np.log(total))[..., 0]
    weights = weights / np.where(total > 0, total, 1)
    d_p = product(p.d_z, _t(p.v))
    d_s = weights * (d_p - (weights * d_p).sum(-1, keepdims=True) + p.d_lse[..., None])
    d_s *= p.q.dtype.type(p.scale)
    return product(weights, p.v), lse, product(d_s, p.k), product(_t(d_s), p.q), product(_t(weights), p.d_z)


def flash(p: Problem, width: int = 16, rounded: bool = True) -> Results:
    """Online softmax over tiles of keys; the map and its gradient are stored in 16 bits before each product."""
    store = p.rounded if rounded else lambda x: x
    scale = p.q.dtype.type(p.scale)
    tiles = [slice(i, i + width) for i in range(0, p.k.shape[2], width)]
    top = np.full((*p.q.shape[:3], 1), -np.inf, p.q.dtype)
    total, z = np.zeros_like(top), np.zeros((*p.q.shape[:3], p.v.shape[3]), p.q.dtype)
    for tile in tiles:
        scores = np.where(p.seen[..., tile], p.q @ _t(p.k[:, :, tile]) * scale, -np.inf)
        new = np.maximum(top, scores.max(-1, keepdims=True))
        safe = np.where(np.isfinite(new), new, 0)
        weights, shrink = np.exp(scores - safe), np.exp(top - safe)
        total = total * shrink + weights.sum(-1, keepdims=True)
        z = z * shrink + store(weights) @ p.v[:, :, tile]
        top = new
    z = z / np.where(total > 0, total, 1)
    lse = top + np.log(total)
    delta = (p.d_z * store(z)).sum(-1, keepdims=True) - p.d_lse[..., None]
    d_q, d_k, d_v = np.zeros_like(p.q), np.zeros_like(p.k), np.zeros_like(p.v)
    for tile in tiles:
        scores = p.q @ _t(p.k[:, :, tile]) * scale
        weights = np.where(p.seen[..., tile], np.exp(scores - np.where(np.isfinite(lse), lse, 0)), 0)
        d_s = store(weights * (p.d_z @ _t(p.v[:, :, tile]) - delta))
        d_v[:, :, tile] = _t(store(weights)) @ p.d_z
        d_k[:, :, tile] = _t(d_s) @ p.q * scale
        d_q += d_s @ p.k[:, :, tile] * scale
    return z, lse[..., 0], d_q, d_k, d_v


def split_keys(p: Problem, parts: int = 3) -> Results:
    """Parts of the keys by themselves, merged by their lse; a part that sees nothing has weight 0."""
    cuts = [slice(*bounds) for bounds in _bounds(p.k.shape[2], parts)]
    found = []
    for cut in cuts:
        part = Problem(p.q, p.k[:, :, cut], p.v[:, :, cut], p.d_z, p.d_lse, p.seen[..., cut], p.scale, p.low)
        found.append(additive_mask(part)[:2])
    lses = np.stack([lse for _, lse in found])
    top = lses.max(0)
    shares = np.exp(lses - np.where(np.isfinite(top), top, 0))
    total = shares.sum(0)
    z = sum(share[..., None] * z for share, (z, _) in zip(shares, found, strict=True))
    z = z / np.where(total > 0, total, 1)[..., None]
    lse = top + np.log(total)
    scores = p.q @ _t(p.k) * p.q.dtype.type(p.scale)
    weights = np.where(p.seen, np.exp(scores - np.where(np.isfinite(lse), lse, 0)[..., None]), 0)
    return (z, lse, *_backward(p, weights, z))


def _bounds(n: int, parts: int) -> list[tuple[int, int]]:
    size = -(-n // parts)
    return [(min(i * size, n), min((i + 1) * size, n)) for i in range(parts)]


def key_by_key(p: Problem) -> Results:
    """The outer loop goes over the keys, and every query is updated with each, as where loops are transposed."""
    scale = p.q.dtype.type(p.scale)
    top = np.full(p.q.shape[:3], -np.inf, p.q.dtype)
    total, z = np.zeros_like(top), np.zeros((*p.q.shape[:3], p.v.shape[3]), p.q.dtype)
    for j in range(p.k.shape[2]):
        score = np.where(p.seen[..., j], (p.q * p.k[:, :, j, None]).sum(-1) * scale, -np.inf)
        new = np.maximum(top, score)
        safe = np.where(np.isfinite(new), new, 0)
        weight, shrink = np.exp(score - safe), np.exp(top - safe)
        total, top = total * shrink + weight, new
        z = z * shrink[..., None] + weight[..., None] * p.v[:, :, j, None]
    z = z / np.where(total > 0, total, 1)[..., None]
    lse = top + np.log(total)
    delta = (p.d_z * z).sum(-1) - p.d_lse
    d_q, d_k, d_v = np.zeros_like(p.q), np.zeros_like(p.k), np.zeros_like(p.v)
    for j in range(p.k.shape[2]):
        score = (p.q * p.k[:, :, j, None]).sum(-1) * scale
        weight = np.where(p.seen[..., j], np.exp(score - np.where(np.isfinite(lse), lse, 0)), 0)
        d_s = weight * ((p.d_z * p.v[:, :, j, None]).sum(-1) - delta) * scale
        d_v[:, :, j] = (weight[..., None] * p.d_z).sum(2)
        d_k[:, :, j] = (d_s[..., None] * p.q).sum(2)
        d_q += d_s[..., None] * p.k[:, :, j, None]
    return z, lse, d_q, d_k, d_v


# name → the implementation, and the dtypes that it is for
RIGHT: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "additive mask, guarded blind rows": (by_maps(additive_mask), ("float64", "float32")),
    "softmax in base 2": (by_maps(in_log2), ("float32", "bfloat16")),
    "keys in reverse order": (by_maps(reversed_keys), ("float32",)),
    "pairwise sums": (by_maps(pairwise), ("float32",)),
    "tiles, map and d_scores in 16 bits": (by_maps(flash), ("bfloat16", "float16")),
    "tiles of 64": (by_maps(lambda p: flash(p, 64, rounded=False)), ("float64", "float32")),
    "split keys, merged by lse": (by_maps(split_keys), ("float32", "bfloat16")),
    "key by key": (by_maps(key_by_key), ("float32",)),
    "gradients in float32": (by_maps(additive_mask, float32_gradients=True), ("bfloat16", "float16")),
}
