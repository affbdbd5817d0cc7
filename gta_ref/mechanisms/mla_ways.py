"""The two equal ways of MLA from queries and latent to the heads' values, each a forward beside its backward.

Head i's score without position, and its value, written with the latent c (d_c wide) of the key's token:

    decompress:  q_i · (c W_UK,i)       o_i = Σ_s A_i(s) (c_s W_UV,i)
    absorb:      (q_i W_UK,iᵀ) · c      o_i = (Σ_s A_i(s) c_s) W_UV,i

Decompressing makes n_h keys and values for every token that is seen. Absorbing multiplies the queries of the
new tokens, and the latents that they attended to, by the same matrices; all heads then share one key
[c; k_rope] and one value c. The part with RoPE has no matrix between query and key, and is the same in both.

Every forward takes (params, parts, mask, config, engine, need_saved, trace) and returns the values
(B, N_q, n_h·d_v) and what its backward needs; every backward takes (d_values, saved, trace) and returns the
gradients of the parts, of w_uk and of w_uv.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gta_ref.core import Mask, attention_backward
from gta_ref.core.engines import attend
from gta_ref.mechanisms.mla_config import Config
from gta_ref.ops import Array, decoder_backward, decoder_forward, linear_backward, linear_forward
from gta_ref.ops.arrays import Params, Trace, add, array_module, narrow, widen
from gta_ref.ops.heads import merge_heads, split_heads, sum_heads


class Parts(NamedTuple):
    """What both ways start from, or its gradients. The parts with RoPE are None if d_rope = 0."""

    q_nope: Array  # (B, n_h, N_q, d_nope)
    q_rope: Array | None  # (B, n_h, N_q, d_rope)
    c: Array  # (B, 1, N_k, d_c)
    k_rope: Array | None  # (B, 1, N_k, d_rope)


class WaySaved(NamedTuple):
    """What a way's forward leaves for its backward."""

    config: Config
    product_k: Any
    product_v: Any
    core: Any


def decompressed_forward(
    params: Params,
    parts: Parts,
    mask: Mask,
    config: Config,
    engine: str,
    need_saved: bool,
    trace: Trace | None,
) -> tuple[Array, WaySaved]:
    """K and V of every token, old ones included: k_nope = c W_UK, v = c W_UV. Stages k_nope, v, q, k, …, values."""
    xp = array_module(parts.c)
    latent = merge_heads(parts.c)  # (B, N_k, d_c)
    k_flat, product_k = linear_forward(latent, params["w_uk"])
    v_flat, product_v = linear_forward(latent, params["w_uv"])
    k_nope = split_heads(k_flat, config.n_heads)  # (B, n_h, N_k, d_nope)
    v = split_heads(v_flat, config.n_heads)  # (B, n_h, N_k, d_v)
    k_rope = parts.k_rope
    if k_rope is not None:
        k_rope = xp.broadcast_to(k_rope, (*k_nope.shape[:3], config.rope_dim))  # one for all heads
    q, k = _join(parts.q_nope, parts.q_rope), _join(k_nope, k_rope)  # (B, n_h, N, d_nope + d_rope)
    if trace is not None:
        trace |= {"k_nope": k_nope, "v": v, "q": q, "k": k}
    z, _, core = attend(q, k, v, mask, config.scale, engine, need_saved=need_saved, trace=trace)
    values = merge_heads(z)  # (B, N_q, n_h·d_v)
    if trace is not None:
        trace |= {"z": z, "values": values}
    return values, WaySaved(config, product_k, product_v, core)


def decompressed_backward(d_values: Array, saved: WaySaved, trace: Trace | None) -> tuple[Parts, Array, Array]:
    """Stages d_values, d_z, d_map, d_scores, d_k, d_q, d_v, d_k_nope."""
    config = saved.config
    d_z = split_heads(d_values, config.n_heads)  # (B, n_h, N_q, d_v)
    if trace is not None:
        trace |= {"d_values": d_values, "d_z": d_z}
    d_q, d_k, d_v = attention_backward(d_z, saved.core, trace=trace)
    d_q_nope, d_q_rope = _split(d_q, config.nope_dim)
    d_k_nope, d_k_rope = _split(d_k, config.nope_dim)
    if trace is not None:
        trace |= {"d_k": d_k, "d_q": d_q, "d_v": d_v, "d_k_nope": d_k_nope}
    if d_k_rope is not None:
        d_k_rope = narrow(sum_heads(widen(d_k_rope), 1), d_k.dtype)  # one key served all heads
    d_latent_k, d_w_uk, _ = linear_backward(merge_heads(d_k_nope), saved.product_k)
    d_latent_v, d_w_uv, _ = linear_backward(merge_heads(d_v), saved.product_v)
    d_c = split_heads(add(d_latent_k, d_latent_v), 1)  # (B, 1, N_k, d_c)
    return Parts(d_q_nope, d_q_rope, d_c, d_k_rope), d_w_uk, d_w_uv


def absorbed_forward(
    params: Params,
    parts: Parts,
    mask: Mask,
    config: Config,
    engine: str,
    need_saved: bool,
    trace: Trace | None,
) -> tuple[Array, WaySaved]:
    """W_UK moves to the query, and W_UV to the result of the attention. Stages q_latent, q, k, …, z, values."""
    # one matrix per head, as in the decoder of GTA
    w_uk = _per_head(params["w_uk"], config.n_heads)  # (n_h, d_c, d_nope)
    w_uv = _per_head(params["w_uv"], config.n_heads)  # (n_h, d_c, d_v)
    q_flat, product_k = decoder_forward(parts.q_nope, w_uk.swapaxes(1, 2))  # (B, N_q, n_h·d_c)
    q_latent = split_heads(q_flat, config.n_heads)  # (B, n_h, N_q, d_c)
    q, k = _join(q_latent, parts.q_rope), _join(parts.c, parts.k_rope)  # (B, n_h or 1, N, d_c + d_rope)
    if trace is not None:
        trace |= {"q_latent": q_latent, "q": q, "k": k}
    z, _, core = attend(q, k, parts.c, mask, config.scale, engine, need_saved=need_saved, trace=trace)
    values, product_v = decoder_forward(z, w_uv)  # (B, N_q, n_h·d_v), from z (B, n_h, N_q, d_c)
    if trace is not None:
        trace |= {"z": z, "values": values}
    return values, WaySaved(config, product_k, product_v, core)


def absorbed_backward(d_values: Array, saved: WaySaved, trace: Trace | None) -> tuple[Parts, Array, Array]:
    """Stages d_values, d_z, d_map, d_scores, d_k, d_q, d_q_latent."""
    config = saved.config
    d_z, d_w_uv = decoder_backward(d_values, saved.product_v)  # (B, n_h, N_q, d_c), (n_h, d_c, d_v)
    if trace is not None:
        trace |= {"d_values": d_values, "d_z": d_z}
    d_q, d_k, d_v = attention_backward(d_z, saved.core, trace=trace)
    d_q_latent, d_q_rope = _split(d_q, config.latent_dim)
    d_c, d_k_rope = _split(d_k, config.latent_dim)
    if trace is not None:
        trace |= {"d_k": d_k, "d_q": d_q, "d_q_latent": d_q_latent}
    d_q_nope, d_w_uk = decoder_backward(merge_heads(d_q_latent), saved.product_k)  # w: (n_h, d_nope, d_c)
    parts = Parts(d_q_nope, d_q_rope, add(d_c, d_v), d_k_rope)  # c is key and value
    return parts, _side_by_side(d_w_uk.swapaxes(1, 2)), _side_by_side(d_w_uv)


def _join(nope: Array, rope: Array | None) -> Array:
    return nope if rope is None else array_module(nope).concatenate([nope, rope], axis=-1)


def _split(joined: Array, width: int) -> tuple[Array, Array | None]:
    """The parts that :func:`_join` joined; the second is None if d_rope = 0."""
    return joined[..., :width], joined[..., width:] if joined.shape[-1] > width else None


def _per_head(w: Array, n: int) -> Array:
    """(d_c, n·d) → (n, d_c, d)."""
    return w.reshape(w.shape[0], n, -1).swapaxes(0, 1)


def _side_by_side(w: Array) -> Array:
    """(n, d_c, d) → (d_c, n·d)."""
    return w.swapaxes(0, 1).reshape(w.shape[1], -1)
