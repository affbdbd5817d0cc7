"""MLA's way in: from tokens to queries, latent and shared key, the same for both ways of attending.

    q = n(x W_DQ), or x itself      q_nope_i = q W_UQ,i    q_rope_i = rope(q W_QR,i)
    c = n(x W_DKV)                  k_rope = rope(x W_KR)

Names of parameters and stages are those of :mod:`gta_ref.mechanisms.mla`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gta_ref.mechanisms.common import rope_tables
from gta_ref.mechanisms.mla_config import Config
from gta_ref.mechanisms.projections import Params, Trace
from gta_ref.ops import (
    Array,
    linear_backward,
    linear_forward,
    rmsnorm_backward,
    rmsnorm_forward,
    rope_backward,
    rope_forward,
)
from gta_ref.ops.arrays import add
from gta_ref.ops.heads import merge_heads, split_heads


class Parts(NamedTuple):
    """What attention is made of, or the gradients of it.

    Where d_rope = 0 the parts with RoPE are None, and their gradients empty.
    """

    q_nope: Array  # (B, n_h, N_q, d_nope)
    q_rope: Array | None  # (B, n_h, N_q, d_rope)
    c: Array  # (B, 1, N_k, d_c)
    k_rope: Array | None  # (B, 1, N_k, d_rope)


class Projected(NamedTuple):
    """What :func:`project_backward` needs."""

    linear: dict[str, Any]  # by the weight's letters
    norm_q: Any
    norm_c: Any
    rope_q: Any
    rope_k: Any


def project_forward(
    params: Params, x: Array, config: Config, positions: Array, trace: Trace | None
) -> tuple[Parts, Projected]:
    """x (B, N, H) → queries, latent and shared key of its tokens."""
    saved: dict[str, Any] = {}
    stages: Trace = {}

    def linear(name: str, y: Array) -> Array:
        y, saved[name] = linear_forward(y, params[f"w_{name}"], params.get(f"b_{name}"))
        return y

    def norm(name: str, y: Array) -> tuple[Array, Any]:
        return rmsnorm_forward(y, params[name], config.norm_eps) if config.latent_norm else (y, None)

    query, norm_q = x, None
    if config.query_latent_dim is not None:
        stages["c_q_proj"] = linear("dq", x)  # (B, N, d_cq)
        query, norm_q = norm("norm_q", stages["c_q_proj"])
        stages["c_q"] = query
    q_nope = split_heads(linear("q" if query is x else "uq", query), config.n_heads)  # (B, n_h, N, d_nope)
    stages["q_nope"] = q_nope
    if config.rope_dim:
        stages["q_rope_proj"] = split_heads(linear("qr", query), config.n_heads)  # (B, n_h, N, d_rope)
    stages["c_proj"] = split_heads(linear("dkv", x), 1)  # (B, 1, N, d_c)
    c, norm_c = norm("norm_c", stages["c_proj"])
    stages["c"] = c
    q_rope = k_rope = rope_q = rope_k = None
    if config.rope_dim:
        stages["k_rope_proj"] = split_heads(linear("kr", x), 1)  # (B, 1, N, d_rope)
        cos, sin = rope_tables(stages["k_rope_proj"], positions, config.rope_theta, config.rope_pairing)
        q_rope, rope_q = rope_forward(stages["q_rope_proj"], cos, sin, config.rope_pairing)
        k_rope, rope_k = rope_forward(stages["k_rope_proj"], cos, sin, config.rope_pairing)
        stages |= {"q_rope": q_rope, "k_rope": k_rope}
    if trace is not None:
        trace |= stages
    return Parts(q_nope, q_rope, c, k_rope), Projected(saved, norm_q, norm_c, rope_q, rope_k)


def project_backward(
    d_parts: Parts, saved: Projected, config: Config, trace: Trace | None
) -> tuple[list[Array], dict[str, Array | None]]:
    """Contributions to dx, and the gradients of the projections and norms (None for a bias that is not there)."""
    grads: dict[str, Array | None] = {}
    stages: Trace = {}

    def linear(name: str, dy: Array) -> Array:
        d_input, grads[f"w_{name}"], grads[f"b_{name}"] = linear_backward(dy, saved.linear[name])
        return d_input

    def norm(name: str, dy: Array, norm_saved: Any) -> Array:
        if norm_saved is not None:
            dy, grads[name] = rmsnorm_backward(dy, norm_saved)
        return dy

    dx, d_query = [], []
    if config.rope_dim:
        stages |= {"d_k_rope": d_parts.k_rope, "d_q_rope": d_parts.q_rope}
        stages["d_k_rope_proj"] = rope_backward(d_parts.k_rope, saved.rope_k)
        dx.append(linear("kr", merge_heads(stages["d_k_rope_proj"])))
    stages["d_c"] = d_parts.c
    stages["d_c_proj"] = norm("norm_c", d_parts.c, saved.norm_c)
    dx.append(linear("dkv", merge_heads(stages["d_c_proj"])))
    if config.rope_dim:
        stages["d_q_rope_proj"] = rope_backward(d_parts.q_rope, saved.rope_q)
        d_query.append(linear("qr", merge_heads(stages["d_q_rope_proj"])))
    stages["d_q_nope"] = d_parts.q_nope
    compressed = config.query_latent_dim is not None
    d_query.append(linear("uq" if compressed else "q", merge_heads(d_parts.q_nope)))
    if compressed:
        stages["d_c_q"] = add(*d_query)  # (B, N, d_cq)
        stages["d_c_q_proj"] = norm("norm_q", stages["d_c_q"], saved.norm_q)
        d_query = [linear("dq", stages["d_c_q_proj"])]
    if trace is not None:
        trace |= stages
    return dx + d_query, grads
