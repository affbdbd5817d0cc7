"""GTA by its definition, Eq. 7 of arXiv 2506.17286: every value is decoded and gated, and only then attended to.

    V_i(t, s) = (C_{c(i), s} W_{P,i}) ⊙ σ(x_t W_{G,i} + b_{G,i})      O_i(t) = Σ_s A_{q(i)}(t, s) V_i(t, s)

Plain loops that share no code with :mod:`gta_ref.mechanisms.gta`, so that the two can be held against each other.
"""

from __future__ import annotations

import math

import numpy as np

from gta_ref.core.mask import Mask, as_mask
from gta_ref.mechanisms.gta_config import Config
from gta_ref.ops.arrays import Array, Params, check_config, check_layer, check_positions, narrow, widen


def forward_unabsorbed(
    params: Params,
    x: Array,
    config: Config,
    *,
    positions: Array | None = None,
    mask: Mask | None = None,
) -> Array:
    """One layer by Eq. 7, for teaching and tests at small sizes; equal to :func:`gta_ref.mechanisms.gta.forward`.

    The loops run over the sequence b, the query's token t, the output head i and the key's token s. Every past value is
    decompressed, and gated anew for every query: n_h·N·d_h elements per query, of which Eq. 8 needs none.

    Parameters
    ----------
    params : dict of str to array
    x : (B, N, H)
    config : Config
    positions : (N,) or (B, N) integers, optional
        For RoPE. Default max(0, q_start + i − k_start): real tokens are counted, padding is not.
    mask : Mask, optional
        Default ``Mask()``: causal.

    Returns
    -------
    out : (B, N, H)
    """
    mask = as_mask(mask)
    check_config(config, Config)
    check_layer(params, config.shapes, x, config.hidden_size)
    check_positions(positions, x)
    B, N, _ = x.shape
    positions = np.broadcast_to(mask.positions(B, N, N) if positions is None else positions, (B, N))
    visible = np.broadcast_to(mask.to_dense(N, N), (B, N, N))
    p, x_wide = {name: widen(w) for name, w in params.items()}, widen(x)  # in the precision of computation
    for name in "qkcg":
        p.setdefault(f"b_{name}", np.zeros(1, x_wide.dtype))  # a layer without biases

    d_h, d_l = config.head_dim, config.latent_dim
    heads_per_map = config.n_heads // config.n_q
    out = np.zeros_like(x_wide)
    for b in range(B):
        q = (x_wide[b] @ p["w_q"] + p["b_q"]).reshape(N, config.n_q, d_h)
        k = (x_wide[b] @ p["w_k"] + p["b_k"]).reshape(N, config.n_k, d_h)
        c = (x_wide[b] @ p["w_c"] + p["b_c"]).reshape(N, config.n_c, d_l)
        for t in range(N):
            for head in (*q[t], *k[t]):
                head[:] = _rotated(head, int(positions[b, t]), config)
        gates = np.ones((N, config.n_heads * d_h), x_wide.dtype)
        if config.gate != "none":
            gates = _activated(x_wide[b] @ p["w_g"] + p["b_g"], config.gate)

        for t in range(N):
            seen = np.flatnonzero(visible[b, t])
            heads = np.zeros(config.n_heads * d_h, x_wide.dtype)
            for i in range(config.n_heads if seen.size else 0):
                m = i // heads_per_map  # q(i), the map of this head
                key_head, latent_head = m // (config.n_q // config.n_k), m // (config.n_q // config.n_c)
                of_head = slice(i * d_h, (i + 1) * d_h)
                scores = [q[t, m] @ k[s, key_head] / math.sqrt(d_h) for s in seen]
                weights = [np.exp(score - max(scores)) for score in scores]
                total = sum(weights)
                w_p = _decoder_of_head(p["w_p"][m], i % heads_per_map, config)  # (d_l, d_h)
                for s, weight in zip(seen, weights, strict=True):
                    value = (c[s, latent_head] @ w_p) * gates[t, of_head]  # V_i(t, s)
                    heads[of_head] += weight / total * value
            out[b, t] = heads @ p["w_o"]
    return narrow(out, x.dtype)


def _decoder_of_head(w: Array, number: int, config: Config) -> Array:
    """W_{P,i}: of the columns that the decoder of a map fills, those of its head `number`."""
    d_h, d_l = config.head_dim, config.latent_dim
    columns = np.arange(number * d_h, (number + 1) * d_h)
    w_p = w[:, columns]
    if config.decoder_residual:  # [I I … I] + W: column j of the identities side by side has its 1 in row j mod d_l
        w_p = w_p + (np.arange(d_l)[:, None] == columns % d_l)
    return w_p


def _rotated(head: Array, position: int, config: Config) -> Array:
    """RoPE: (a, b) → (a cos − b sin, b cos + a sin) for every pair of features."""
    d = len(head)
    turned = head.copy()
    for t in range(d // 2 if config.rope_pairing != "none" else 0):
        first, second = (t, t + d // 2) if config.rope_pairing == "half" else (2 * t, 2 * t + 1)
        angle = position * config.rope_theta ** (-2 * t / d)
        turned[first] = head[first] * math.cos(angle) - head[second] * math.sin(angle)
        turned[second] = head[second] * math.cos(angle) + head[first] * math.sin(angle)
    return turned


def _activated(a: Array, gate: str) -> Array:
    """σ(a), a σ(a) or max(a, 0)²."""
    if gate == "relu2":
        return np.maximum(a, 0) ** 2
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-a))
    return a * sigmoid if gate == "silu" else sigmoid
