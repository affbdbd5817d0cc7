"""What MHA, GQA, GVA and GHA have in common: values are cached head by head, and no decoder follows.

One map serves r = n_h/n_q output heads, so it needs r value heads. The n_v value heads form s = n_v/r
blocks V_b = [V_{b·r} … V_{b·r+r−1}] of r heads side by side; map m reads key head k(m) = m // (n_q/n_k) and
block b(m) = m // (n_q/s):

    Q = X W_Q    K = X W_K    V = X W_V                       RoPE on Q and K, never on V
    A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h + mask)                n_q maps
    Z_m = A_m V_{b(m)}                                        r·d_h wide: head i = m·r + j is A_m V_{b(m)·r+j}
    Y   = ([Z_0 … Z_{n_q−1}] ⊙ gate(X W_G)) W_O               the gate is that of GTA, and optional

With qk_norm every head of Q and of K passes through an RMSNorm before RoPE (Qwen3). RoPE's frequencies and the factor
on the scores can be others than those of the formulas.

For the attention core a block is one wide value head, so nothing is computed or stored twice. The mechanisms
differ only in their head counts:

    ======  ====  ====  ====  =========  ===========
            n_q   n_k   n_v   r          s
    ======  ====  ====  ====  =========  ===========
    MHA     n_h   n_h   n_h   1          n_h
    GQA     n_h   n_k   n_k   1          n_k
    GVA     n_q   n_q   n_h   n_h/n_q    n_q
    GHA     n_q   n_k   n_v   n_h/n_q    n_v·n_q/n_h
    ======  ====  ====  ====  =========  ===========

Each mechanism's file offers the functions below with its own Config. Cached per token: K and V,
(n_k + n_v)·d_h elements.

Stages that `trace` receives, in order: q_proj (B, n_q, N, d_h), k_proj (B, n_k, N, d_h), q_normed and k_normed (only
with qk_norm), v (B, s, N, r·d_h), q, k (after RoPE), scores (scaled, before masking; B, n_q, N_q, N_k), map, z (B, n_q,
N, r·d_h), gate (after its activation; only with a gate), heads (B, N, n_h·d_h; gated), out (B, N, H). The stages of the
backward have d_ in front and come in reverse order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gta_ref.cache import KVCache, next_mask
from gta_ref.core import Mask, attention_backward
from gta_ref.core.engines import attend
from gta_ref.core.mask import as_mask
from gta_ref.mechanisms.headwise_config import HeadwiseConfig, param_shapes, structure
from gta_ref.mechanisms.projections import (
    QKV,
    Output,
    output_backward,
    output_forward,
    present,
    qkv_backward,
    qkv_forward,
)
from gta_ref.ops import Array, as_dtype
from gta_ref.ops.arrays import (
    Params,
    Trace,
    add,
    as_saved,
    check_config,
    check_cotangent,
    check_layer,
    check_options,
    check_positions,
    check_rng,
    normal,
)
from gta_ref.ops.heads import merge_heads, split_heads

__all__ = ["HeadwiseConfig", "backward", "decode", "forward", "init", "only_with", "param_shapes", "structure"]

Function = TypeVar("Function", bound=Callable[..., Any])


class HeadwiseSaved(NamedTuple):
    """What forward leaves for backward."""

    config: HeadwiseConfig
    qkv: QKV
    core: Any
    output: Output


def init(config: HeadwiseConfig, rng: np.random.Generator, dtype: Any = "float32") -> dict[str, Array]:
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
    config: HeadwiseConfig,
    *,
    positions: Array | None = None,
    mask: Mask | None = None,
    engine: Any = "auto",
    trace: Trace | None = None,
    need_saved: bool = True,
) -> tuple[Array, HeadwiseSaved | None]:
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

    Returns
    -------
    out : (B, N, H)
    saved : for :func:`backward`; None with need_saved=False

    Raises
    ------
    ValueError
        On a shape, name or dtype that does not fit; the message names it.
    """
    mask = as_mask(mask)
    check_options(config, HeadwiseConfig, trace, need_saved)
    check_layer(params, param_shapes(config), x, config.hidden_size)
    check_positions(positions, x)
    if positions is None:
        positions = mask.positions(x.shape[0], x.shape[1], x.shape[1])
    q, k, v, qkv = _queries_keys_values(params, x, config, positions, trace)
    z, _, core = attend(q, k, v, mask, config.scale, engine, need_saved=need_saved, trace=trace)
    out, output = _output_forward(params, x, z, config, trace)
    return out, HeadwiseSaved(config, qkv, core, output) if need_saved else None


def backward(dout: Array, saved: HeadwiseSaved | None, *, trace: Trace | None = None) -> tuple[Array, dict[str, Array]]:
    """Gradient of Σ dout ⊙ out.

    Parameters
    ----------
    dout : (B, N, H)
    saved : from :func:`forward`
    trace : dict, optional
        Receives d_out, d_heads, d_gate, d_z, d_map, d_scores, d_k, d_q, d_v, d_k_normed, d_q_normed, d_k_proj,
        d_q_proj, as far as the stages exist.

    Returns
    -------
    dx : (B, N, H)
    grads : dict of str to array
        The keys and shapes of the parameters.
    """
    saved = as_saved(saved, HeadwiseSaved, trace)
    config, qkv, core, output = saved
    check_cotangent("dout", dout, (*output.values.shape[:2], config.hidden_size), output.values.dtype, "out")

    # out = (z ⊙ gate) W_O + b_O;  gate = σ(x W_G + b_G)
    d_values, dx_gate, grads_output = output_backward(dout, output, trace)  # (B, N, n_h·d_h)
    # z = attention(q, k, v)
    d_z = split_heads(d_values, config.n_q)  # (B, n_q, N, r·d_h)
    if trace is not None:
        trace["d_z"] = d_z
    d_q, d_k, d_v = attention_backward(d_z, core, trace=trace)
    # q = rope(norm(q_proj)), k = rope(norm(k_proj)), the norm only with qk_norm;  q_proj, k_proj, v are linear in x
    dx_qkv, grads_qkv = qkv_backward(d_q, d_k, d_v, qkv, trace)

    grads = {**grads_qkv, **grads_output}
    return add(*dx_qkv, *dx_gate), present(grads, param_shapes(config))


def decode(
    params: Params,
    x: Array,
    cache: KVCache,
    config: HeadwiseConfig,
    *,
    engine: Any = "auto",
    trace: Trace | None = None,
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

    Returns
    -------
    out : (B, N_new, H)
    """
    check_options(config, HeadwiseConfig, trace)
    check_layer(params, param_shapes(config), x, config.hidden_size)
    mask = next_mask(cache, x)
    positions = mask.positions(x.shape[0], x.shape[1], cache.length + x.shape[1])
    q, k, v, _ = _queries_keys_values(params, x, config, positions, trace)
    with cache.appended(k=k, v=v) as held:
        z, _, _ = attend(q, held["k"], held["v"], mask, config.scale, engine, need_saved=False, trace=trace)
        return _output_forward(params, x, z, config, trace)[0]


def _queries_keys_values(
    params: Params, x: Array, config: HeadwiseConfig, positions: Array, trace: Trace | None
) -> tuple[Array, Array, Array, QKV]:
    """x → q (B, n_q, N, d_h) and k (B, n_k, N, d_h) after RoPE, v (B, s, N, r·d_h): a block is one wide head."""
    return qkv_forward(params, x, config, positions, trace)


def _output_forward(
    params: Params, x: Array, z: Array, config: HeadwiseConfig, trace: Trace | None
) -> tuple[Array, Output]:
    """z (B, n_q, N, r·d_h) → out (B, N, H). Map m's r heads are m·r … m·r + r − 1, so z merges as it stands."""
    if trace is not None:
        trace["z"] = z
    return output_forward(params, x, merge_heads(z), config.gate, trace)


def only_with(kind: type[HeadwiseConfig], function: Function) -> Function:
    """One of the functions above for one mechanism: it refuses the Config of another."""
    at = list(signature(function).parameters).index("config")

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        if len(args) > at or "config" in options:  # otherwise Python says what is missing
            check_config(args[at] if len(args) > at else options["config"], kind)
        return function(*args, **options)

    return checked  # type: ignore[return-value]
