"""Grouped-head latenT Attention (GTA; Sun et al., arXiv 2506.17286).

For token t, map m = 0 … n_q − 1 and output head i = 0 … n_h − 1, with heads assigned in contiguous runs,
q(i) = i // (n_h/n_q), k(m) = m // (n_q/n_k), c(m) = m // (n_q/n_c):

    1   Q = X W_Q + b_Q    K = X W_K + b_K    C = X W_C + b_C     three projections
    2   Q, K turned by RoPE, C never                              positions
    3   A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h + mask)                n_q maps, not n_h
        Z_m = A_m C_{c(m)}                                        latent context, d_l wide
    4   U_i = Z_{q(i)} W_{P,i}                                    value decoder, linear …
        O_i = U_i ⊙ σ(x_t W_{G,i} + b_{G,i})                      … and gated by the query's token
    5   Y   = [O_0 … O_{n_h−1}] W_O                               output projection

Cached per token: K and C, n_k·d_h + n_c·d_l elements. Nothing is decompressed for past tokens, because
the gate depends on the query's token alone and W_P is linear: both leave the sum over keys (Eq. 7 → Eq. 8).
:func:`forward` computes Eq. 8 and :func:`forward_unabsorbed` Eq. 7, the definition, in plain loops.

With ``decoder_residual=True`` the decoder is that of the released code, Z_m repeated e = n_h·d_h / (n_q·d_l)
times plus Z_m W_m; :func:`fold_residual` turns such weights into the paper's form.

Stages that `trace` receives, in order: q_proj (B, n_q, N, d_h), k_proj (B, n_k, N, d_h), c (B, n_c, N, d_l),
q, k (after RoPE), scores (scaled, before masking; B, n_q, N_q, N_k), map, z (B, n_q, N, d_l), values
(B, N, n_h·d_h; U, before the gate), gate (after its activation), heads (gated values), out (B, N, H). The
backward's stages have d_ in front and come in reverse order. Without a gate the stage gate does not exist.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache, next_mask
from gta_ref.core import Mask, attention_backward
from gta_ref.core.engines import attend
from gta_ref.core.mask import as_mask
from gta_ref.mechanisms.gta_config import Config, param_shapes, small_sizes, structure
from gta_ref.mechanisms.gta_definition import forward_unabsorbed
from gta_ref.ops import (
    Array,
    as_dtype,
    decoder_backward,
    decoder_forward,
    gate_backward,
    gate_forward,
    linear_backward,
    linear_forward,
    rope_backward,
    rope_forward,
    rope_tables,
)
from gta_ref.ops.arrays import (
    Params,
    Trace,
    add,
    as_saved,
    check_config,
    check_cotangent,
    check_layer,
    check_options,
    check_params_alone,
    check_positions,
    check_rng,
    normal,
)

__all__ = [
    "Config",
    "backward",
    "decode",
    "fold_residual",
    "forward",
    "forward_unabsorbed",
    "init",
    "param_shapes",
    "small_sizes",
    "structure",
]


class GTASaved(NamedTuple):
    """What forward leaves for backward: what each of its lines returned as `saved`."""

    config: Config
    q_linear: Any
    k_linear: Any
    c_linear: Any
    q_rope: Any
    k_rope: Any
    core: Any
    decoder: Any
    values: Array  # U, (B, N, n_h·d_h)
    gate: Array | None  # None without a gate, as the two fields below
    gate_linear: Any
    gate_activation: Any
    o_linear: Any


def init(config: Config, rng: np.random.Generator, dtype: Any = "float32") -> dict[str, Array]:
    """Random parameters: weights normal with variance 1/d_in, biases zero.

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
    check_config(config, Config)
    check_rng(rng)
    dtype = as_dtype(dtype)
    return {
        name: np.zeros(shape, dtype) if name.startswith("b_") else normal(rng, shape, shape[-2] ** -0.5, dtype)
        for name, shape in param_shapes(config).items()
    }


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
) -> tuple[Array, GTASaved | None]:
    """One layer over whole sequences (Eq. 8).

    Parameters
    ----------
    params : dict of str to array
        With the names and shapes of :func:`param_shapes`.
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
    p, mask = params, as_mask(mask)
    check_options(config, Config, trace, need_saved)
    check_layer(p, config.shapes, x, config.hidden_size)
    check_positions(positions, x)
    B, N, _ = x.shape
    n_q, n_k, n_c, d_h, d_l = config.n_q, config.n_k, config.n_c, config.head_dim, config.latent_dim

    # 1. three projections, and their vectors cut into heads
    q_flat, q_linear = linear_forward(x, p["w_q"], p.get("b_q"))  # (B, N, n_q·d_h), Q = X W_Q + b_Q
    k_flat, k_linear = linear_forward(x, p["w_k"], p.get("b_k"))  # (B, N, n_k·d_h), K = X W_K + b_K
    c_flat, c_linear = linear_forward(x, p["w_c"], p.get("b_c"))  # (B, N, n_c·d_l), C = X W_C + b_C
    q_proj = q_flat.reshape(B, N, n_q, d_h).swapaxes(1, 2)  # (B, n_q, N, d_h)
    k_proj = k_flat.reshape(B, N, n_k, d_h).swapaxes(1, 2)  # (B, n_k, N, d_h)
    c = c_flat.reshape(B, N, n_c, d_l).swapaxes(1, 2)  # (B, n_c, N, d_l)

    # 2. RoPE on queries and keys, never on latents
    positions = mask.positions(B, N, N) if positions is None else positions
    cos, sin = rope_tables(q_proj, positions, config.rope_theta, config.rope_pairing)  # (1 or B, 1, N, d_h/2)
    q, q_rope = rope_forward(q_proj, cos, sin, config.rope_pairing)  # (B, n_q, N, d_h)
    k, k_rope = rope_forward(k_proj, cos, sin, config.rope_pairing)  # (B, n_k, N, d_h)
    if trace is not None:
        trace |= {"q_proj": q_proj, "k_proj": k_proj, "c": c, "q": q, "k": k}

    # 3. the attention core: Z_m = softmax(Q_m K_{k(m)}ᵀ / √d_h + mask) C_{c(m)}
    z, _, core = attend(q, k, c, mask, config.scale, engine, need_saved=need_saved, trace=trace)  # (B, n_q, N, d_l)

    # 4. the value decoder, then the gate: the token of each query decides, not the tokens of the keys
    values, decoder = decoder_forward(z, p["w_p"], config.decoder_residual)  # (B, N, n_h·d_h), U_i = Z_{q(i)} W_{P,i}
    heads, gate, gate_linear, gate_activation = values, None, None, None
    if config.gate != "none":
        a, gate_linear = linear_forward(x, p["w_g"], p.get("b_g"))  # (B, N, n_h·d_h), X W_G + b_G
        gate, gate_activation = gate_forward(a, config.gate)  # (B, N, n_h·d_h), σ(…)
        heads = values * gate  # (B, N, n_h·d_h), O = U ⊙ σ(…)

    # 5. the output projection
    out, o_linear = linear_forward(heads, p["w_o"])  # (B, N, H), Y = [O_0 … O_{n_h−1}] W_O
    if trace is not None:
        trace |= {"z": z, "values": values}
        trace |= {} if gate is None else {"gate": gate}
        trace |= {"heads": heads, "out": out}
    if not need_saved:
        return out, None
    return out, GTASaved(
        *(config, q_linear, k_linear, c_linear, q_rope, k_rope, core),
        *(decoder, values, gate, gate_linear, gate_activation, o_linear),
    )


def backward(dout: Array, saved: GTASaved | None, *, trace: Trace | None = None) -> tuple[Array, dict[str, Array]]:
    """Gradient of Σ dout ⊙ out: the lines of :func:`forward`, last one first.

    Parameters
    ----------
    dout : (B, N, H)
    saved : from :func:`forward`
    trace : dict, optional
        Receives d_out, d_heads, d_gate, d_values, d_z, d_map, d_scores, d_k, d_q, d_c, d_k_proj, d_q_proj.

    Returns
    -------
    dx : (B, N, H)
    grads : dict of str to array
        The keys and shapes of the parameters.
    """
    saved = as_saved(saved, GTASaved, trace)
    config, s = saved.config, saved
    B, N, _ = s.values.shape
    check_cotangent("dout", dout, (B, N, config.hidden_size), s.values.dtype, "out")
    n_q, n_k, n_c, d_h, d_l = config.n_q, config.n_k, config.n_c, config.head_dim, config.latent_dim
    g: dict[str, Array | None] = {}  # the gradient of every parameter; None for a bias that does not exist

    # 5. Y = O W_O
    d_heads, g["w_o"], _ = linear_backward(dout, s.o_linear)  # (B, N, n_h·d_h)

    # 4. O = U ⊙ G, G = σ(a), a = X W_G + b_G; U_i = Z_{q(i)} W_{P,i}
    d_values, d_gate, dx_gate = d_heads, None, []  # without a gate, O = U
    if s.gate is not None:
        d_values, d_gate = d_heads * s.gate, d_heads * s.values  # (B, N, n_h·d_h) both
        da = gate_backward(d_gate, s.gate_activation)  # (B, N, n_h·d_h)
        dx_g, g["w_g"], g["b_g"] = linear_backward(da, s.gate_linear)
        dx_gate = [dx_g]
    d_z, g["w_p"] = decoder_backward(d_values, s.decoder)  # (B, n_q, N, d_l)
    if trace is not None:
        trace |= {"d_out": dout, "d_heads": d_heads}
        trace |= {} if d_gate is None else {"d_gate": d_gate}
        trace |= {"d_values": d_values, "d_z": d_z}

    # 3. Z_m = A_m C_{c(m)}, A_m = softmax(S_m), S_m = Q_m K_{k(m)}ᵀ / √d_h; sums over the maps of a key or latent head
    d_q, d_k, d_c = attention_backward(d_z, s.core, trace=trace)  # as q, k and c

    # 2. q = RoPE(q_proj): a rotation's transpose turns the other way
    d_q_proj = rope_backward(d_q, s.q_rope)  # (B, n_q, N, d_h)
    d_k_proj = rope_backward(d_k, s.k_rope)  # (B, n_k, N, d_h)
    if trace is not None:
        trace |= {"d_k": d_k, "d_q": d_q, "d_c": d_c, "d_k_proj": d_k_proj, "d_q_proj": d_q_proj}

    # 1. Q = X W_Q + b_Q, and so on; heads side by side again
    d_q_flat = d_q_proj.swapaxes(1, 2).reshape(B, N, n_q * d_h)
    d_k_flat = d_k_proj.swapaxes(1, 2).reshape(B, N, n_k * d_h)
    d_c_flat = d_c.swapaxes(1, 2).reshape(B, N, n_c * d_l)
    dx_q, g["w_q"], g["b_q"] = linear_backward(d_q_flat, s.q_linear)  # (B, N, H), as the other two
    dx_k, g["w_k"], g["b_k"] = linear_backward(d_k_flat, s.k_linear)
    dx_c, g["w_c"], g["b_c"] = linear_backward(d_c_flat, s.c_linear)

    # X was used four times: its gradients add up
    dx = add(dx_q, dx_k, dx_c, *dx_gate)  # (B, N, H)
    return dx, {name: grad for name in config.shapes if (grad := g[name]) is not None}


def decode(
    params: Params,
    x: Array,
    cache: KVCache,
    config: Config,
    *,
    engine: Any = "auto",
    trace: Trace | None = None,
) -> Array:
    """Append the tokens of x to the cache and let them attend to all that it holds.

    One token or many: a first call with a whole prompt is the prefill, later ones continue. The result equals that of
    :func:`forward` over the concatenation.

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
    p = params
    check_options(config, Config, trace)
    check_layer(p, config.shapes, x, config.hidden_size)
    mask = next_mask(cache, x)
    B, N, _ = x.shape
    n_q, n_k, n_c, d_h, d_l = config.n_q, config.n_k, config.n_c, config.head_dim, config.latent_dim

    # 1. and 2. as in forward, for the new tokens alone
    q_proj = linear_forward(x, p["w_q"], p.get("b_q"))[0].reshape(B, N, n_q, d_h).swapaxes(1, 2)  # (B, n_q, N, d_h)
    k_proj = linear_forward(x, p["w_k"], p.get("b_k"))[0].reshape(B, N, n_k, d_h).swapaxes(1, 2)  # (B, n_k, N, d_h)
    c = linear_forward(x, p["w_c"], p.get("b_c"))[0].reshape(B, N, n_c, d_l).swapaxes(1, 2)  # (B, n_c, N, d_l)
    positions = mask.positions(B, N, cache.length + N)
    cos, sin = rope_tables(q_proj, positions, config.rope_theta, config.rope_pairing)
    q, _ = rope_forward(q_proj, cos, sin, config.rope_pairing)  # (B, n_q, N, d_h)
    k, _ = rope_forward(k_proj, cos, sin, config.rope_pairing)  # (B, n_k, N, d_h)
    if trace is not None:
        trace |= {"q_proj": q_proj, "k_proj": k_proj, "c": c, "q": q, "k": k}

    # 3. over the new keys and latents and all that were cached before; nothing cached is decoded
    with cache.appended(k=k, c=c) as held:
        z, _, _ = attend(q, held["k"], held["c"], mask, config.scale, engine, need_saved=False, trace=trace)

        # 4. and 5. as in forward, for the new tokens alone
        values, _ = decoder_forward(z, p["w_p"], config.decoder_residual)  # (B, N, n_h·d_h)
        if trace is not None:
            trace |= {"z": z, "values": values}
        heads = values
        if config.gate != "none":
            gate, _ = gate_forward(linear_forward(x, p["w_g"], p.get("b_g"))[0], config.gate)  # (B, N, n_h·d_h)
            heads = values * gate
            if trace is not None:
                trace["gate"] = gate
        out, _ = linear_forward(heads, p["w_o"])  # (B, N, H)
    if trace is not None:
        trace |= {"heads": heads, "out": out}
    return out


def fold_residual(params: Params, config: Config) -> tuple[dict[str, Array], Config]:
    """Turn the released form into the paper's: W_P = [I I … I] + W, e identities side by side.

    Parameters
    ----------
    params : dict of str to array
    config : Config
        With decoder_residual=True.

    Returns
    -------
    params, config : the same layer with decoder_residual=False; only w_p is another array
    """
    check_config(config, Config)
    check_params_alone(params, config.shapes)
    if not config.decoder_residual:
        raise ValueError("decoder_residual=False must be True: there is no residual to fold")
    w_p = params["w_p"]
    identities = np.tile(np.eye(config.latent_dim), config.residual_copies)  # (d_l, e·d_l)
    return {**params, "w_p": (w_p + identities).astype(w_p.dtype)}, replace(config, decoder_residual=False)
