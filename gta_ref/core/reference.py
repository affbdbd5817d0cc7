"""The definition of the attention core: the map is an array that you can look at.

For every map m, with key head k(m) = m // (n_q/n_k) and value head v(m) = m // (n_q/n_v):

    S_m = scale · Q_m K_{k(m)}ᵀ        A_m = softmax(S_m, masked)        Z_m = A_m V_{v(m)}

In GTA a value head is a latent head C (arXiv 2506.17286, Eq. 8); the core does not know the difference.
Scores and map stay in the precision of computation (float32 for float16 and bfloat16), as they do in
an engine that never writes them to memory; z is rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gta_ref.core.mask import Mask, dense
from gta_ref.ops.arrays import Array, array_module, narrow, widen
from gta_ref.ops.heads import repeat_heads, sum_heads
from gta_ref.ops.softmax import softmax_backward, softmax_lse_forward


class State(NamedTuple):
    """What the backward needs: the inputs without their masked slots, widened, and the map."""

    q: Array  # (B, n_q, N_q, d_k)
    k: Array  # (B, n_k, N_k, d_k)
    v: Array  # (B, n_v, N_k, d_v)
    map: Array  # (B, n_q, N_q, N_k)
    scale: float
    dtypes: tuple[Any, Any, Any]


def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    *,
    need_saved: bool = True,
    trace: dict | None = None,
) -> tuple[Array, Array, State | None]:
    """z and lse of checked arguments; see :func:`gta_ref.core.attention_forward`.

    `trace` receives ``scores`` (scaled, before masking) and ``map``, both (B, n_q, N_q, N_k).
    """
    xp = array_module(q)
    (batch, n_q, n_queries, _), n_keys = q.shape, k.shape[2]
    q_start, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    visible = xp.asarray(dense(mask.causal, q_start, k_start, k_stop, n_queries, n_keys))[:, None]  # (B, 1, N_q, N_k)
    dtypes = (q.dtype, k.dtype, v.dtype)
    q, k, v = widen(q), widen(k), widen(v)
    if (k_start > 0).any() or (k_stop < n_keys).any():
        # an unused slot may hold NaN, and 0 · NaN is NaN: make it 0
        slot = xp.arange(n_keys)
        used = (xp.asarray(k_start)[:, None] <= slot) & (slot < xp.asarray(k_stop)[:, None])  # (B, N_k)
        k = xp.where(used[:, None, :, None], k, k.dtype.type(0))
        v = xp.where(used[:, None, :, None], v, v.dtype.type(0))

    scores = q @ repeat_heads(k, n_q).swapaxes(-1, -2) * scale  # (B, n_q, N_q, N_k)
    map_, lse, _ = softmax_lse_forward(scores, visible)
    z = map_ @ repeat_heads(v, n_q)  # (B, n_q, N_q, d_v)

    if trace is not None:
        trace["scores"], trace["map"] = scores, map_
    state = State(q, k, v, map_, scale, dtypes) if need_saved else None
    return narrow(z, dtypes[0]), lse, state


def backward(
    dz: Array, state: State, dlse: Array | None = None, *, trace: dict | None = None
) -> tuple[Array, Array, Array]:
    """The gradient through z and lse; see :func:`gta_ref.core.attention_backward`.

        dA_m = dZ_m V_{v(m)}ᵀ          dV_h = Σ_{m: v(m)=h} A_mᵀ dZ_m
        dS_m = A_m ⊙ (dA_m − rowsum(A_m ⊙ dA_m) + dlse_m)
        dQ_m = scale · dS_m K_{k(m)}   dK_h = scale · Σ_{m: k(m)=h} dS_mᵀ Q_m

    `trace` receives ``d_map`` and ``d_scores``.
    """
    q, k, v, map_, scale, dtypes = state
    n_q, n_k, n_v = q.shape[1], k.shape[1], v.shape[1]
    dz = widen(dz)
    d_map = dz @ repeat_heads(v, n_q).swapaxes(-1, -2)  # (B, n_q, N_q, N_k)
    dv = sum_heads(map_.swapaxes(-1, -2) @ dz, n_v)  # (B, n_v, N_k, d_v)
    d_scores = softmax_backward(d_map, map_, dlse)  # (B, n_q, N_q, N_k)
    dq = d_scores @ repeat_heads(k, n_q) * scale  # (B, n_q, N_q, d_k)
    dk = sum_heads(d_scores.swapaxes(-1, -2) @ q * scale, n_k)  # (B, n_k, N_k, d_k)
    if trace is not None:
        trace["d_map"], trace["d_scores"] = d_map, d_scores
    return narrow(dq, dtypes[0]), narrow(dk, dtypes[1]), narrow(dv, dtypes[2])


def why_not() -> str | None:
    """Why this engine cannot run here; None where it can."""
    return None


def check(q: Array, k: Array, v: Array) -> None:
    """Every case of the contract is taken."""
