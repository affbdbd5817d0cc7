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

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.mechanisms.common import check_input, decode_mask, default_positions, normal
from gta_ref.mechanisms.gta_config import Config, param_shapes, structure
from gta_ref.mechanisms.projections import (
    QKV,
    Output,
    Params,
    Trace,
    output_backward,
    output_forward,
    qkv_backward,
    qkv_forward,
)
from gta_ref.ops import Array, as_dtype, decoder_backward, decoder_forward, linear_forward
from gta_ref.ops.arrays import add
from gta_ref.ops.heads import merge_heads, split_heads

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


class GTASaved(NamedTuple):
    """What forward leaves for backward."""

    config: Config
    qkc: QKV
    core: Any
    decoder: Any
    output: Output


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
) -> tuple[Array, GTASaved | None]:
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
    q, k, c, qkc = _queries_keys_latents(params, x, config, positions, trace)
    z, _, core = attention_forward(
        q, k, c, mask=mask, scale=config.scale, engine=engine, need_saved=need_saved, trace=trace
    )
    out, decoder, output = _decode_values(params, x, z, config, trace)
    return out, GTASaved(config, qkc, core, decoder, output) if need_saved else None


def backward(dout: Array, saved: GTASaved | None, *, trace: Trace | None = None) -> tuple[Array, dict[str, Array]]:
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
    config, qkc, core, decoder, output = saved

    # out = heads W_O;  heads = values ⊙ gate;  gate = σ(x W_G + b_G)
    d_values, dx_gate, grads_output = output_backward(dout, output, trace)  # (B, N, n_h·d_h)
    # values = decoder(z);  z = attention(q, k, c)
    d_z, d_w_p = decoder_backward(d_values, decoder)  # (B, n_q, N, d_l)
    if trace is not None:
        trace |= {"d_values": d_values, "d_z": d_z}
    d_q, d_k, d_c = attention_backward(d_z, core, trace=trace)
    # q = rope(q_proj), k = rope(k_proj);  q_proj, k_proj and c are linear in x
    dx_qkc, grads_qkc = qkv_backward(d_q, d_k, d_c, qkc, trace)

    grads = {**grads_qkc, **grads_output, "w_p": d_w_p}
    return add(*dx_qkc, *dx_gate), {name: grads[name] for name in param_shapes(config)}


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
    mask, positions = decode_mask(cache, x)
    q, k, c, _ = _queries_keys_latents(params, x, config, positions, trace)
    with cache.appended(k=k, c=c) as held:
        z, _, _ = attention_forward(
            q, held["k"], held["c"], mask=mask, scale=config.scale, engine=engine, need_saved=False, trace=trace
        )
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
) -> tuple[Array, Array, Array, QKV]:
    """x → q (B, n_q, N, d_h) and k (B, n_k, N, d_h) after RoPE, c (B, n_c, N, d_l)."""
    heads = config.n_q, config.n_k, config.n_c
    return qkv_forward(params, x, heads, positions, config.rope_theta, config.rope_pairing, "c", trace)


def _decode_values(
    params: Params, x: Array, z: Array, config: Config, trace: Trace | None
) -> tuple[Array, Any, Output]:
    """z (B, n_q, N, d_l) → out (B, N, H): decode, gate with the query's token, project."""
    values, decoder = decoder_forward(z, params["w_p"], config.decoder_residual)  # (B, N, n_h·d_h)
    if trace is not None:
        trace |= {"z": z, "values": values}
    out, output = output_forward(params, x, values, config.gate, trace)
    return out, decoder, output
