r"""Grouped-head latenT Attention (GTA; Sun et al., arXiv 2506.17286).

For token t, map m = 0 … n_q − 1 and output head i = 0 … n_h − 1, with heads assigned in contiguous runs,
q(i) = i // (n_h/n_q), k(m) = m // (n_q/n_k), c(m) = m // (n_q/n_c):

    Q = X W_Q + b_Q    K = X W_K + b_K    C = X W_C + b_C     RoPE on Q and K, never on C
    A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h + mask)                n_q maps, not n_h
    Z_m = A_m C_{c(m)}                                        latent context, d_l wide
    O_i = (Z_{q(i)} W_{P,i}) ⊙ σ(x_t W_{G,i} + b_{G,i})       nonlinear value decoder
    Y   = [O_0 … O_{n_h−1}] W_O

Cached for a token: K and C, n_k·d_h + n_c·d_l elements. Nothing is decompressed for past tokens, because
the gate depends on the query's token alone and W_P is linear: both leave the sum over keys (Eq. 7 → Eq. 8).
:func:`forward_unabsorbed` computes Eq. 7 as it stands.

With ``decoder_residual=True`` the decoder is that of the released code, Z_m repeated e = n_h·d_h / (n_q·d_l)
times plus Z_m W_m; :func:`fold_residual` turns such weights into the paper's form.

Stages that `trace` receives, in order: q_proj (B, n_q, N, d_h), k_proj (B, n_k, N, d_h), c (B, n_c, N, d_l),
q, k (after RoPE), scores (scaled, before masking; B, n_q, N_q, N_k), map, z (B, n_q, N, d_l), values
(B, N, n_h·d_h; before the gate), gate (after its activation), heads (gated values), out (B, N, H). The
backward's have d_ in front and come in reverse order. Without a gate the stage gate does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.mechanisms.common import (
    add,
    check_input,
    default_positions,
    merge_heads,
    normal,
    rope_tables,
    split_heads,
)
from gta_ref.mechanisms.gta_config import Config, param_shapes, structure
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
    "structure",
]

Params = Mapping[str, Array]
Trace = dict[str, Array]


class _Inputs(NamedTuple):
    """What the backward of q, k and c needs."""

    q: Any
    k: Any
    c: Any
    rope_q: Any
    rope_k: Any


class _Outputs(NamedTuple):
    """What the backward from z to out needs."""

    decoder: Any
    values: Array
    gate: Array | None
    gate_linear: Any
    gate_activation: Any
    out: Any


class Saved(NamedTuple):
    """What forward leaves for backward."""

    config: Config
    inputs: _Inputs
    core: Any
    outputs: _Outputs


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
    engine: str = "auto",
    trace: Trace | None = None,
    need_saved: bool = True,
) -> tuple[Array, Saved | None]:
    """One layer over whole sequences (Eq. 8).

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
        See :func:`gta_ref.core.attention_forward`.
    trace : dict, optional
        Receives every stage; "auto" is then the reference.
    need_saved : bool
        False where no backward follows.

    Returns
    -------
    out : (B, N, H)
    saved : for :func:`backward`; None with need_saved=False

    Raises
    ------
    ValueError
        On a shape, name or dtype that does not fit; the message names it.
    """
    check_input(params, param_shapes(config), x, config.hidden_size)
    mask = Mask() if mask is None else mask
    if positions is None:
        positions = default_positions(mask, x.shape[0], x.shape[1], x.shape[1])
    q, k, c, inputs = _queries_keys_latents(params, x, config, positions, trace)
    z, _, core = attention_forward(q, k, c, mask, config.scale, engine, need_saved=need_saved, trace=trace)
    out, outputs = _decode_values(params, x, z, config, trace)
    return out, Saved(config, inputs, core, outputs) if need_saved else None


def backward(dout: Array, saved: Saved | None, *, trace: Trace | None = None) -> tuple[Array, dict[str, Array]]:
    """Gradient of Σ dout ⊙ out.

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
    if saved is None:
        raise ValueError("saved is None; expected what forward returns with need_saved=True")
    config, inputs, core, outputs = saved
    grads: dict[str, Array] = {}
    stages: Trace = {} if trace is None else trace
    dx = []

    # out = heads W_O;  heads = values ⊙ gate;  gate = σ(x W_G + b_G)
    stages["d_out"] = dout
    d_heads, grads["w_o"], _ = linear_backward(dout, outputs.out)  # (B, N, n_h·d_h)
    stages["d_heads"] = d_heads
    d_values = d_heads
    if outputs.gate is not None:
        d_gate, d_values = d_heads * outputs.values, d_heads * outputs.gate
        stages["d_gate"] = d_gate
        dx_gate, grads["w_g"], grads["b_g"] = linear_backward(
            gate_backward(d_gate, outputs.gate_activation), outputs.gate_linear
        )
        dx.append(dx_gate)
    stages["d_values"] = d_values

    # values = decoder(z);  z = attention(q, k, c)
    d_z, grads["w_p"] = decoder_backward(d_values, outputs.decoder)  # (B, n_q, N, d_l)
    stages["d_z"] = d_z
    d_q, d_k, d_c = attention_backward(d_z, core, trace=trace)
    stages |= {"d_k": d_k, "d_q": d_q, "d_c": d_c}

    # q = rope(q_proj), k = rope(k_proj);  q_proj, k_proj and c are linear in x
    d_k_proj, d_q_proj = rope_backward(d_k, inputs.rope_k), rope_backward(d_q, inputs.rope_q)
    stages |= {"d_k_proj": d_k_proj, "d_q_proj": d_q_proj}
    for name, d_proj, linear in (("q", d_q_proj, inputs.q), ("k", d_k_proj, inputs.k), ("c", d_c, inputs.c)):
        dx_part, grads[f"w_{name}"], grads[f"b_{name}"] = linear_backward(merge_heads(d_proj), linear)
        dx.append(dx_part)
    return add(*dx), {name: grads[name] for name in param_shapes(config)}


def decode(
    params: Params,
    x: Array,
    cache: KVCache,
    config: Config,
    *,
    engine: str = "auto",
    trace: Trace | None = None,
) -> Array:
    """Append the tokens of x to the cache and let them attend to all that it holds.

    One token or many: a first call with a whole prompt is the prefill, later ones continue. Equal to
    :func:`forward` over the concatenation.

    Parameters
    ----------
    params : dict of str to array
    x : (B, N_new, H)
    cache : KVCache
        Made with ``structure(config).cached``; its `length` grows by N_new, or stays on an error.
    config : Config
    engine, trace : as in :func:`forward`

    Returns
    -------
    out : (B, N_new, H)
    """
    check_input(params, param_shapes(config), x, config.hidden_size)
    mask = Mask(q_start=cache.length, k_start=cache.k_start)
    first = cache.length - cache.k_start[:, None]  # (B, 1)
    positions = np.maximum(0, first + np.arange(x.shape[1]))
    q, k, c, _ = _queries_keys_latents(params, x, config, positions, trace)
    with cache.appended(k=k, c=c) as held:
        z, _, _ = attention_forward(q, held["k"], held["c"], mask, config.scale, engine, need_saved=False, trace=trace)
        return _decode_values(params, x, z, config, trace)[0]


def forward_unabsorbed(
    params: Params, x: Array, config: Config, *, positions: Array | None = None, mask: Mask | None = None
) -> Array:
    """One layer by the definition, Eq. 7: decode every value, gate it, and only then attend.

        V_i(t, s) = (C_{c(i), s} W_{P,i}) ⊙ σ(x_t W_{G,i} + b_{G,i})      O_i(t) = Σ_s A_{q(i)}(t, s) V_i(t, s)

    Every past value is decompressed, and gated anew for every query t: n_h·N·d_h elements a query where
    Eq. 8 needs none. For teaching and tests; equal to :func:`forward` to rounding.

    Parameters
    ----------
    params, x, config, positions, mask : as in :func:`forward`

    Returns
    -------
    out : (B, N, H)
    """
    stages: Trace = {}
    forward(
        params, x, config, positions=positions, mask=mask, engine="reference", trace=stages, need_saved=False
    )  # for the maps, the latents and the gate
    heads_per_map = config.n_heads // config.n_q
    latents = np.repeat(stages["c"], config.n_q // config.n_c, axis=1)  # (B, n_q, N, d_l), the C of every map
    decoded, _ = decoder_forward(latents, params["w_p"], config.decoder_residual)  # (B, N, n_h·d_h)
    decoded = split_heads(decoded, config.n_heads)  # (B, n_h, N, d_h)
    maps = np.repeat(stages["map"], heads_per_map, axis=1)  # (B, n_h, N_q, N_k), the map of every head

    heads = np.empty_like(decoded)  # (B, n_h, N, d_h)
    for t in range(x.shape[1]):
        gated = decoded
        if "gate" in stages:
            gated = decoded * split_heads(stages["gate"], config.n_heads)[:, :, t : t + 1]  # (B, n_h, N_k, d_h)
        heads[:, :, t] = (maps[:, :, t, None] @ gated)[:, :, 0]  # (B, n_h, d_h)
    return linear_forward(merge_heads(heads), params["w_o"])[0]


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
    if not config.decoder_residual:
        raise ValueError("decoder_residual=False must be True: there is no residual to fold")
    w_p = params["w_p"]
    identities = np.tile(np.eye(config.latent_dim), config.residual_copies)  # (d_l, e·d_l)
    return {**params, "w_p": (w_p + identities).astype(w_p.dtype)}, replace(config, decoder_residual=False)


def _queries_keys_latents(
    params: Params, x: Array, config: Config, positions: Array, trace: Trace | None
) -> tuple[Array, Array, Array, _Inputs]:
    """x → q (B, n_q, N, d_h), k (B, n_k, N, d_h) after RoPE, c (B, n_c, N, d_l)."""
    q_flat, saved_q = linear_forward(x, params["w_q"], params.get("b_q"))
    k_flat, saved_k = linear_forward(x, params["w_k"], params.get("b_k"))
    c_flat, saved_c = linear_forward(x, params["w_c"], params.get("b_c"))
    q_proj, k_proj = split_heads(q_flat, config.n_q), split_heads(k_flat, config.n_k)
    c = split_heads(c_flat, config.n_c)
    cos, sin = rope_tables(q_proj, positions, config.head_dim, config.rope_theta)
    q, rope_q = rope_forward(q_proj, cos, sin, config.rope_pairing)
    k, rope_k = rope_forward(k_proj, cos, sin, config.rope_pairing)
    if trace is not None:
        trace |= {"q_proj": q_proj, "k_proj": k_proj, "c": c, "q": q, "k": k}
    return q, k, c, _Inputs(saved_q, saved_k, saved_c, rope_q, rope_k)


def _decode_values(params: Params, x: Array, z: Array, config: Config, trace: Trace | None) -> tuple[Array, _Outputs]:
    """z (B, n_q, N, d_l) → out (B, N, H): decode, gate with the query's token, project."""
    values, decoder = decoder_forward(z, params["w_p"], config.decoder_residual)  # (B, N, n_h·d_h)
    heads, gate, gate_linear, gate_activation = values, None, None, None
    if config.gate != "none":
        a, gate_linear = linear_forward(x, params["w_g"], params.get("b_g"))
        gate, gate_activation = gate_forward(a, config.gate)  # (B, N, n_h·d_h)
        heads = values * gate
    out, linear = linear_forward(heads, params["w_o"])  # (B, N, H)
    if trace is not None:
        trace |= {"z": z, "values": values}
        if gate is not None:
            trace["gate"] = gate
        trace |= {"heads": heads, "out": out}
    return out, _Outputs(decoder, values, gate, gate_linear, gate_activation, linear)
