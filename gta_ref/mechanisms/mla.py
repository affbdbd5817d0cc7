"""Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434): keys and values are made from a small latent.

For token t and head i = 0 … n_h − 1, with n(·) an RMSNorm (or nothing, with latent_norm=False):

    c = n(x W_DKV)                 k_rope = rope(x W_KR)           cached: d_c + d_rope elements
    k_i = [c W_UK,i ; k_rope]      v_i = c W_UV,i                  one k_rope for all heads
    q_i = [q W_UQ,i ; rope(q W_QR,i)]                              q = n(x W_DQ), the compressed query
    A_i = softmax(q_i k_iᵀ / √(d_nope + d_rope) + mask)            or another factor, Config.score_scale
    Y   = ([A_0 v_0 … A_{n_h−1} v_{n_h−1}] ⊙ gate(x W_G)) W_O      the gate is GTA's, default none

Without query compression (query_latent_dim None) q is x itself, and W_UQ is called W_Q.

Two equal ways to run it, `absorb` in :func:`forward` and :func:`decode`, see
:mod:`gta_ref.mechanisms.mla_ways`: False decompresses k_i and v_i of every token that is seen; True multiplies
the query by W_UK,iᵀ and the attended latent by W_UV,i, so that all heads attend to one key [c ; k_rope] and
one value c. Outputs and gradients agree to rounding. Both keep the same cache, the latent after its norm, ``c``
(1, d_c), and the shared key after RoPE, ``k_rope`` (1, d_rope; absent if d_rope = 0). A cache that was filled
in one way can therefore be continued in the other.

Parameters (each b_… only with bias=True):

    w_dq (H, d_cq), b_dq, norm_q (d_cq)     down to the query's latent, gain of its norm
    w_uq (d_cq, n_h·d_nope)                 up from it; w_q (H, n_h·d_nope), b_q without compression
    w_qr (d_cq or H, n_h·d_rope)            the query with RoPE; b_qr without compression
    w_dkv (H, d_c), b_dkv, norm_c (d_c)     down to the latent of keys and values, gain of its norm
    w_kr (H, d_rope), b_kr                  the shared key with RoPE
    w_uk (d_c, n_h·d_nope)                  up to every head's key
    w_uv (d_c, n_h·d_v)                     up to every head's value
    w_g (H, n_h·d_v), b_g, w_o (n_h·d_v, H)

Stages that `trace` receives, in order; those of the query's latent, of RoPE and of the gate where these exist:
c_q_proj (B, N, d_cq), c_q (after its norm), q_nope (B, n_h, N, d_nope), q_rope_proj (B, n_h, N, d_rope), c_proj
(B, 1, N, d_c), c (after its norm), k_rope_proj (B, 1, N, d_rope), q_rope and k_rope (after RoPE); then with
absorb=False k_nope (B, n_h, N, d_nope), v (B, n_h, N, d_v), q and k (B, n_h, N, d_nope + d_rope), or with
absorb=True q_latent (B, n_h, N, d_c), q (B, n_h, N, d_c + d_rope), k (B, 1, N, d_c + d_rope); then scores (scaled,
before masking; B, n_h, N_q, N_k), map, z (B, n_h, N, d_v, or d_c if absorbed), values (B, N, n_h·d_v), gate (after
its activation), heads (gated), out (B, N, H). The stages of the backward have d_ in front and come in reverse
order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache, next_mask
from gta_ref.core import Mask
from gta_ref.core.mask import as_mask
from gta_ref.errors import check_bool
from gta_ref.mechanisms import mla_ways
from gta_ref.mechanisms.mla_config import Config, param_shapes, small_sizes, structure
from gta_ref.mechanisms.mla_ways import Parts
from gta_ref.mechanisms.projections import Output, output_backward, output_forward, present
from gta_ref.ops import (
    Array,
    as_dtype,
    linear_backward,
    linear_forward,
    rmsnorm_backward,
    rmsnorm_forward,
    rope_backward,
    rope_forward,
    rope_tables,
)
from gta_ref.ops.arrays import (
    Params,
    Trace,
    add,
    as_saved,
    check_cotangent,
    check_layer,
    check_options,
    check_positions,
    check_rng,
    normal,
)
from gta_ref.ops.heads import merge_heads, split_heads

__all__ = ["Config", "backward", "decode", "forward", "init", "param_shapes", "small_sizes", "structure"]


class Projected(NamedTuple):
    """What the projections leave for the backward."""

    linear: dict[str, Any]  # by the weight's letters
    norm_q: Any
    norm_c: Any
    rope_q: Any
    rope_k: Any


class MLASaved(NamedTuple):
    """What forward leaves for backward."""

    config: Config
    absorb: bool
    projected: Projected
    way: mla_ways.WaySaved
    output: Output


def init(config: Config, rng: np.random.Generator, dtype: Any = "float32") -> dict[str, Array]:
    """Random parameters: weights normal with variance 1/d_in, biases zero, gains one.

    Parameters
    ----------
    config : Config
    rng : numpy.random.Generator
    dtype : str or dtype

    Returns
    -------
    params : dict of str to array
        The shapes are those of :func:`param_shapes`. One seed gives the same weights in every dtype.
    """
    check_rng(rng)
    dtype = as_dtype(dtype)
    params = {}
    for name, shape in param_shapes(config).items():
        if name.startswith("w_"):
            params[name] = normal(rng, shape, shape[0] ** -0.5, dtype)
        else:
            params[name] = np.full(shape, name.startswith("norm_"), dtype)
    return params


def forward(
    params: Params,
    x: Array,
    config: Config,
    *,
    positions: Array | None = None,
    mask: Mask | None = None,
    engine: Any = "auto",
    trace: Trace | None = None,
    need_saved: bool = True,
    absorb: bool = False,
) -> tuple[Array, MLASaved | None]:
    """One layer over whole sequences.

    Parameters
    ----------
    params : dict of str to array
    x : (B, N, H)
        In the dtype of the parameters.
    config : Config
    positions : (N,) or (B, N) integers, optional
        For RoPE. Default max(0, q_start + i − k_start): real tokens are counted, padding is not.
    mask : Mask, optional
        Default ``Mask()``: causal.
    engine : str
        What computes the attention core; see :func:`gta_ref.core.attention_forward`. Default "auto".
    trace : dict, optional
        Receives every stage; "auto" is then the reference.
    need_saved : bool
        False if no backward follows. Default True.
    absorb : bool
        False, the default, decompresses keys and values. True attends to the latent: the same result from a
        wider attention core.

    Returns
    -------
    out : (B, N, H)
    saved : for :func:`backward`; None with need_saved=False

    Raises
    ------
    ValueError
        On a shape, name or dtype that does not fit; the message names it.
    """
    check_bool("absorb", absorb)
    mask = as_mask(mask)
    check_options(config, Config, trace, need_saved)
    check_layer(params, param_shapes(config), x, config.hidden_size)
    check_positions(positions, x)
    if positions is None:
        positions = mask.positions(x.shape[0], x.shape[1], x.shape[1])
    parts, projected = _project(params, x, config, positions, trace)
    attend = mla_ways.absorbed_forward if absorb else mla_ways.decompressed_forward
    values, way = attend(params, parts, mask, config, engine, need_saved, trace)  # (B, N, n_h·d_v)
    out, output = output_forward(params, x, values, config.gate, trace)
    return out, MLASaved(config, absorb, projected, way, output) if need_saved else None


def backward(dout: Array, saved: MLASaved | None, *, trace: Trace | None = None) -> tuple[Array, dict[str, Array]]:
    """Gradient of Σ dout ⊙ out, in the way that the forward took.

    Parameters
    ----------
    dout : (B, N, H)
    saved : from :func:`forward`
    trace : dict, optional
        Receives the stages of the forward with d_ in front, the last one first.

    Returns
    -------
    dx : (B, N, H)
    grads : dict of str to array
        The keys and shapes of the parameters.
    """
    saved = as_saved(saved, MLASaved, trace)
    config, values = saved.config, saved.output.values
    check_cotangent("dout", dout, (*values.shape[:2], config.hidden_size), values.dtype, "out")
    d_values, dx_gate, grads_output = output_backward(dout, saved.output, trace)  # (B, N, n_h·d_v)
    attend_backward = mla_ways.absorbed_backward if saved.absorb else mla_ways.decompressed_backward
    d_parts, d_w_uk, d_w_uv = attend_backward(d_values, saved.way, trace)
    dx, grads_projected = _project_backward(d_parts, saved.projected, config, trace)
    grads = {**grads_projected, **grads_output, "w_uk": d_w_uk, "w_uv": d_w_uv}
    return add(*dx, *dx_gate), present(grads, param_shapes(config))


def decode(
    params: Params,
    x: Array,
    cache: KVCache,
    config: Config,
    *,
    engine: Any = "auto",
    trace: Trace | None = None,
    absorb: bool = True,
) -> Array:
    """Append the tokens of x to the cache and let them attend to all that it holds.

    One token or many: a first call with a whole prompt is the prefill, later ones continue. The result equals
    that of :func:`forward` over the concatenation.

    Parameters
    ----------
    params : dict of str to array
    x : (B, N_new, H)
    cache : KVCache
        Made with ``structure(config).cached``; its `length` grows by N_new, or stays as it was on an error.
    config : Config
    engine, trace : as in :func:`forward`
    absorb : bool
        True, the default, attends to the cache as it is. False first decompresses keys and values of all tokens
        in the cache, in every call.

    Returns
    -------
    out : (B, N_new, H)
    """
    check_bool("absorb", absorb)
    check_options(config, Config, trace)
    check_layer(params, param_shapes(config), x, config.hidden_size)
    mask = next_mask(cache, x)
    positions = mask.positions(x.shape[0], x.shape[1], cache.length + x.shape[1])
    new, _ = _project(params, x, config, positions, trace)
    entries = {"c": new.c} if new.k_rope is None else {"c": new.c, "k_rope": new.k_rope}
    attend = mla_ways.absorbed_forward if absorb else mla_ways.decompressed_forward
    with cache.appended(**entries) as held:
        seen = new._replace(c=held["c"], k_rope=held.get("k_rope"))
        values, _ = attend(params, seen, mask, config, engine, False, trace)
        return output_forward(params, x, values, config.gate, trace)[0]


def _project(
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
        cos, sin = rope_tables(
            stages["k_rope_proj"],
            positions,
            config.rope_theta,
            config.rope_pairing,
            config.rope_frequencies,
            config.rope_magnitude,
        )
        q_rope, rope_q = rope_forward(stages["q_rope_proj"], cos, sin, config.rope_pairing)
        k_rope, rope_k = rope_forward(stages["k_rope_proj"], cos, sin, config.rope_pairing)
        stages |= {"q_rope": q_rope, "k_rope": k_rope}
    if trace is not None:
        trace |= stages
    return Parts(q_nope, q_rope, c, k_rope), Projected(saved, norm_q, norm_c, rope_q, rope_k)


def _project_backward(
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
    if d_parts.k_rope is not None and d_parts.q_rope is not None:
        stages |= {"d_k_rope": d_parts.k_rope, "d_q_rope": d_parts.q_rope}
        stages["d_k_rope_proj"] = rope_backward(d_parts.k_rope, saved.rope_k)
        dx.append(linear("kr", merge_heads(stages["d_k_rope_proj"])))
    stages["d_c"] = d_parts.c
    stages["d_c_proj"] = norm("norm_c", d_parts.c, saved.norm_c)
    dx.append(linear("dkv", merge_heads(stages["d_c_proj"])))
    if d_parts.q_rope is not None:
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
