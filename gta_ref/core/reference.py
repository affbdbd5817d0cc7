"""The definition of the attention core, in which the map is an array that can be inspected.

For every map m, with key head k(m) = m // (n_q/n_k) and value head v(m) = m // (n_q/n_v):

    S_m = scale · Q_m K_{k(m)}ᵀ        A_m = softmax(S_m, masked)        Z_m = A_m V_{v(m)}

In GTA a value head is a latent head C (arXiv 2506.17286, Eq. 8); for the core this makes no difference.
Scores and map stay in the precision of computation (float32 for float16 and bfloat16), as they do in
an engine that never writes them to memory. z is rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from gta_ref.core.mask import Mask, dense
from gta_ref.ops.arrays import Array, array_module, narrow, widen
from gta_ref.ops.heads import sum_heads


class ReferenceState(NamedTuple):
    """What the backward needs: the inputs, widened and with 0 in the slots that are not in use, and the map."""

    q: Array  # (B, n_q, N_q, d_k)
    k: Array  # (B, n_k, N_k, d_k)
    v: Array  # (B, n_v, N_k, d_v)
    map: Array  # (B, n_q, N_q, N_k)
    scale: float
    dtypes: tuple[Any, Any, Any]  # of q, k and v


def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    *,
    need_saved: bool = True,
    trace: dict[str, Array] | None = None,
) -> tuple[Array, Array, ReferenceState | None]:
    """Compute z and lse of checked arguments; see :func:`gta_ref.core.attention_forward`.

    `trace` receives ``scores`` (scaled, before masking) and ``map``, both (B, n_q, N_q, N_k).
    """
    xp, dtypes = array_module(q), (q.dtype, k.dtype, v.dtype)
    (batch, n_q, n_queries, _), (_, n_k, n_keys, _), n_v = q.shape, k.shape, v.shape[1]
    q_start, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    visible = xp.asarray(dense(mask.causal, q_start, k_start, k_stop, n_queries, n_keys))[:, None]  # (B, 1, N_q, N_k)
    q, k, v = widen(q), widen(k), widen(v)
    if (k_start > 0).any() or (k_stop < n_keys).any():
        # a slot that is not in use may hold NaN, and 0 · NaN is NaN: make it 0
        slot = xp.arange(n_keys)
        used = (xp.asarray(k_start)[:, None] <= slot) & (slot < xp.asarray(k_stop)[:, None])  # (B, N_k)
        k = xp.where(used[:, None, :, None], k, k.dtype.type(0))
        v = xp.where(used[:, None, :, None], v, v.dtype.type(0))
    k_of_map = xp.repeat(k, n_q // n_k, axis=1)  # (B, n_q, N_k, d_k): map m reads key head m // (n_q/n_k)
    v_of_map = xp.repeat(v, n_q // n_v, axis=1)  # (B, n_q, N_k, d_v): and value head m // (n_q/n_v)

    # S = scale · Q Kᵀ
    scores = q @ k_of_map.swapaxes(-1, -2) * scale  # (B, n_q, N_q, N_k)

    # A = exp(S − top) / Σ exp(S − top), lse = top + log Σ exp(S − top), over what is visible. Subtracting the largest
    # score keeps exp from overflowing. A row that sees nothing has top = −inf; it subtracts 0, and every exp is 0.
    seen = xp.where(visible, scores, -np.inf)
    top = seen.max(axis=-1, keepdims=True, initial=-np.inf)  # (B, n_q, N_q, 1)
    top = xp.where(xp.isneginf(top), scores.dtype.type(0), top)
    map_ = xp.exp(seen - top)  # (B, n_q, N_q, N_k)
    total = map_.sum(axis=-1, keepdims=True)  # (B, n_q, N_q, 1)
    blind = total == 0  # false for NaN, which has to reach the result
    total = xp.where(blind, total.dtype.type(1), total)
    map_ /= total
    lse = xp.where(blind, -np.inf, top + xp.log(total))[..., 0]  # (B, n_q, N_q)

    # Z = A V
    z = map_ @ v_of_map  # (B, n_q, N_q, d_v)

    if trace is not None:
        trace["scores"], trace["map"] = scores, map_
    state = ReferenceState(q, k, v, map_, scale, dtypes) if need_saved else None
    return narrow(z, dtypes[0]), lse, state


def backward(
    dz: Array, state: ReferenceState, dlse: Array | None = None, *, trace: dict[str, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Compute the gradient through z and lse; see :func:`gta_ref.core.attention_backward`.

        dA_m = dZ_m V_{v(m)}ᵀ          dV_h = Σ_{m: v(m)=h} A_mᵀ dZ_m
        dS_m = A_m ⊙ (dA_m − rowsum(A_m ⊙ dA_m) + dlse_m)
        dQ_m = scale · dS_m K_{k(m)}   dK_h = scale · Σ_{m: k(m)=h} dS_mᵀ Q_m

    `trace` receives ``d_map`` and ``d_scores``.
    """
    q, k, v, map_, scale, dtypes = state
    xp, dz = array_module(q), widen(dz)
    n_q, n_k, n_v = q.shape[1], k.shape[1], v.shape[1]
    k_of_map, v_of_map = xp.repeat(k, n_q // n_k, axis=1), xp.repeat(v, n_q // n_v, axis=1)
    # Z = A V
    d_map = dz @ v_of_map.swapaxes(-1, -2)  # (B, n_q, N_q, N_k)
    dv = sum_heads(map_.swapaxes(-1, -2) @ dz, n_v)  # (B, n_v, N_k, d_v)
    # A = softmax(S): ∂A_i/∂S_j = A_i (δ_ij − A_j), and ∂lse/∂S_j = A_j
    row = (d_map * map_).sum(axis=-1, keepdims=True)  # (B, n_q, N_q, 1)
    if dlse is not None:
        row = row - dlse[..., None]
    d_scores = map_ * (d_map - row)  # (B, n_q, N_q, N_k)
    # S = scale · Q Kᵀ
    dq = d_scores @ k_of_map * scale  # (B, n_q, N_q, d_k)
    dk = sum_heads(d_scores.swapaxes(-1, -2) @ q * scale, n_k)  # (B, n_k, N_k, d_k)
    if trace is not None:
        trace["d_map"], trace["d_scores"] = d_map, d_scores
    return narrow(dq, dtypes[0]), narrow(dk, dtypes[1]), narrow(dv, dtypes[2])


def backward_part(
    dz: Array,
    q: Array,
    k: Array,
    v: Array,
    z: Array,
    lse: Array,
    mask: Mask,
    scale: float,
    dlse: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Compute the gradient by some of the keys; see :func:`gta_ref.core.engines.attention_backward_part`.

    The map over these keys alone, times exp(its lse − lse), is the part of the whole map. The row sum of the whole map
    is dz · z; `backward` uses that of the part, dz · (A V), and the difference is entered as a cotangent of lse.
    """
    xp = array_module(q)
    _, lse_part, saved = forward(q, k, v, mask, scale)
    state = cast(ReferenceState, saved)
    share = xp.exp(xp.where(xp.isneginf(lse_part), -np.inf, lse_part - xp.where(xp.isneginf(lse), 0, lse)))
    part = state._replace(map=state.map * share[..., None])
    of_part = part.map @ xp.repeat(part.v, q.shape[1] // v.shape[1], axis=1)  # (B, n_q, N_q, d_v), A V
    difference = (widen(dz) * (of_part - widen(z))).sum(axis=-1)  # (B, n_q, N_q)
    return backward(dz, part, difference if dlse is None else difference + dlse)


def why_not() -> str | None:
    """Why this engine cannot run here; None if it can."""
    return None


def check(q: Array, k: Array, v: Array) -> None:
    """Accept every case, because this engine supports all of them."""
