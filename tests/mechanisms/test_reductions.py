"""Certain sizes or weights make one mechanism equal to another: outputs and gradients are compared.

The gradients of the two parametrisations are related by the chain rule: a weight that occurs in several places has the
sum of their gradients, and if a weight is a product of two others, its gradient determines both of theirs.
"""

import dataclasses

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.mechanisms import gha, gqa, gta, gva, mha, mla

H, N_HEADS, D = 20, 12, 4
MASK = Mask(k_start=[0, 3])
# two orders of a float64 sum of some tens of terms of size 1 differ by less
SAME = dict(rtol=0, atol=1e-12)


def run(mechanism, config, params, x, dout, **way):
    out, saved = mechanism.forward(params, x, config, mask=MASK, **way)
    return out, *mechanism.backward(dout, saved)


def start(mechanism, config, rng):
    """Random parameters, including biases and gains, x (2, 7, H), and a random cotangent."""
    params = mechanism.init(config, rng, "float64")
    for name, p in params.items():
        if not name.startswith("w_"):
            params[name] = name.startswith("norm_") + 0.5 * rng.standard_normal(p.shape)
    return params, rng.standard_normal((2, 7, config.hidden_size)), rng.standard_normal((2, 7, config.hidden_size))


def agree(got, want, what=""):
    assert np.abs(want).max() > 1e-2, f"{what}: nothing to compare"
    np.testing.assert_allclose(got, want, **SAME, err_msg=what)


OPTIONS = [dict(), dict(gate="sigmoid", bias=True, output_bias=True, rope_pairing="interleaved")]

# both mechanisms have the same parameters, because their head counts are the same
SAME_SIZES = {
    "GQA with n_k = n_h is MHA": (gqa, gqa.Config(H, N_HEADS, D, n_k=N_HEADS), mha, mha.Config(H, N_HEADS, D)),
    "GVA with n_q = n_k = n_h is MHA": (gva, gva.Config(H, N_HEADS, D, n_q=N_HEADS), mha, mha.Config(H, N_HEADS, D)),
    # s = n_v / (n_h/n_q) = n_q: every map has its own block
    "GHA with n_v = n_h and n_k = n_q is GVA": (
        gha,
        gha.Config(H, N_HEADS, D, n_q=4, n_k=4, n_v=N_HEADS),
        gva,
        gva.Config(H, N_HEADS, D, n_q=4),
    ),
    # r = n_h/n_q = 1: every head has its own map, and s = n_v
    "GHA with n_q = n_h and n_v = n_k is GQA": (
        gha,
        gha.Config(H, N_HEADS, D, n_q=N_HEADS, n_k=3, n_v=3),
        gqa,
        gqa.Config(H, N_HEADS, D, n_k=3),
    ),
    "GHA with everything n_h is MHA": (
        gha,
        gha.Config(H, N_HEADS, D, n_q=N_HEADS, n_k=N_HEADS, n_v=N_HEADS),
        mha,
        mha.Config(H, N_HEADS, D),
    ),
}


@pytest.mark.parametrize("options", OPTIONS, ids=["bare", "gate and biases"])
@pytest.mark.parametrize("name", SAME_SIZES)
def test_same_sizes(name, options, rng):
    mechanism, config, other, other_config = SAME_SIZES[name]
    config = dataclasses.replace(config, **options)
    other_config = dataclasses.replace(other_config, **options)
    assert mechanism.param_shapes(config) == other.param_shapes(other_config)
    params, x, dout = start(mechanism, config, rng)
    out, dx, grads = run(mechanism, config, params, x, dout)
    want, want_dx, want_grads = run(other, other_config, params, x, dout)
    agree(out, want)
    agree(dx, want_dx)
    for key, want_grad in want_grads.items():
        agree(grads[key], want_grad, key)


def tied_heads(config):
    """The map, key head and value head of every output head, from the published pairing of the mechanism."""
    maps, keys, values = [], [], []
    for i in range(config.n_heads):
        r = config.n_heads // config.n_q
        m = i // r
        block = m // (config.n_q // (config.n_v // r))
        maps.append(m)
        keys.append(m // (config.n_q // config.n_k))
        values.append(block * r + i % r)
    return {"q": maps, "k": keys, "v": values}


TIED = {
    "gqa": (gqa, gqa.Config(H, N_HEADS, D, n_k=4)),
    "mqa": (gqa, gqa.Config(H, N_HEADS, D, n_k=1)),
    "gva": (gva, gva.Config(H, N_HEADS, D, n_q=4)),
    "gha": (gha, gha.Config(H, N_HEADS, D, n_q=6, n_k=3, n_v=4)),
    "gha, one block": (gha, gha.Config(H, N_HEADS, D, n_q=6, n_k=1, n_v=2)),
}


@pytest.mark.parametrize("options", OPTIONS, ids=["bare", "gate and biases"])
@pytest.mark.parametrize("name", TIED)
def test_all_are_mha_with_tied_weights(name, options, rng):
    """MHA's W_Q, W_K and W_V repeat the columns of a head wherever it is used; its gradient is the sum of theirs."""
    mechanism, config = TIED[name]
    config = dataclasses.replace(config, **options)
    heads = tied_heads(config)
    params, x, dout = start(mechanism, config, rng)

    def columns(letter):
        return np.concatenate([np.arange(h * D, (h + 1) * D) for h in heads[letter]])

    untied = dict(params)
    for letter in heads:
        for kind in "wb":
            if f"{kind}_{letter}" in params:
                untied[f"{kind}_{letter}"] = params[f"{kind}_{letter}"][..., columns(letter)]
    out, dx, grads = run(mechanism, config, params, x, dout)
    want, want_dx, want_grads = run(mha, mha.Config(H, N_HEADS, D, **options), untied, x, dout)
    agree(out, want)
    agree(dx, want_dx)
    for key, p in params.items():
        if key[2:] in heads:
            summed = np.zeros_like(p)
            np.add.at(summed, (..., columns(key[2:])), want_grads[key])
            agree(grads[key], summed, key)
        else:
            agree(grads[key], want_grads[key], key)


@pytest.mark.parametrize("n_k", [1, 4, 12])
def test_gta_with_an_identity_decoder_is_gqa(n_k, rng):
    """With n_q = n_h, n_c = n_k, d_l = d_h, no gate, no bias and W_P,i = I, Z_m I = A_m C_{c(m)}: GQA with W_V = W_C.

    Both forms of the decoder are tested: W_P,i is I in the paper's form, and 0 in the released code's, whose residual
    adds the I (e = 1).
    """
    config = gqa.Config(H, N_HEADS, D, n_k=n_k)
    params, x, dout = start(gqa, config, rng)
    want, want_dx, want_grads = run(gqa, config, params, x, dout)
    w_v = params.pop("w_v")
    for residual in (False, True):
        as_gta = gta.Config(H, N_HEADS, D, N_HEADS, n_k, n_k, D, gate="none", bias=False, decoder_residual=residual)
        w_p = np.zeros((N_HEADS, D, D)) if residual else np.tile(np.eye(D), (N_HEADS, 1, 1))
        out, dx, grads = run(gta, as_gta, {**params, "w_c": w_v, "w_p": w_p}, x, dout)
        agree(out, want)
        agree(dx, want_dx)
        agree(grads["w_c"], want_grads["w_v"])
        for key in ("w_q", "w_k", "w_o"):
            agree(grads[key], want_grads[key], key)


@pytest.mark.parametrize("absorb", [False, True], ids=["decompressed", "absorbed"])
@pytest.mark.parametrize("gate", ["none", "sigmoid"])
def test_mla_without_rope_and_norm_is_mha(gate, absorb, rng):
    """The sizes are d_rope = 0, no norm, d_nope = d_v = d_h, and queries are projected from x.

    k_i = c W_UK,i = x (W_DKV W_UK,i), so that the layer is MHA without RoPE, with W_K = W_DKV W_UK and, likewise,
    W_V = W_DKV W_UV. By the chain rule dW_UK = W_DKVᵀ dW_K, dW_UV = W_DKVᵀ dW_V and
    dW_DKV = dW_K W_UKᵀ + dW_V W_UVᵀ. Both scale by 1/√d_nope = 1/√d_h.
    """
    config = mla.Config(H, N_HEADS, 9, D, 0, D, latent_norm=False, gate=gate)
    params, x, dout = start(mla, config, rng)
    p = dict(params)
    down, up_k, up_v = (p.pop(name) for name in ("w_dkv", "w_uk", "w_uv"))
    out, dx, grads = run(mla, config, params, x, dout, absorb=absorb)
    as_mha = mha.Config(H, N_HEADS, D, rope_pairing="none", gate=gate)
    want, want_dx, g = run(mha, as_mha, {**p, "w_k": down @ up_k, "w_v": down @ up_v}, x, dout)
    agree(out, want)
    agree(dx, want_dx)
    for key in p:
        agree(grads[key], g[key], key)
    agree(grads["w_uk"], down.T @ g["w_k"])
    agree(grads["w_uv"], down.T @ g["w_v"])
    agree(grads["w_dkv"], g["w_k"] @ up_k.T + g["w_v"] @ up_v.T)


def test_mla_with_a_wide_query_latent_is_mla_without(rng):
    """Without norms, a compressed query is x (W_DQ W_UQ), as in a layer with W_Q = W_DQ W_UQ and W_QR = W_DQ W_QR."""
    config = mla.Config(H, 3, 9, D, 2, 5, query_latent_dim=8, latent_norm=False)
    params, x, dout = start(mla, config, rng)
    p = dict(params)
    down, up = p.pop("w_dq"), p.pop("w_uq")
    out, dx, grads = run(mla, config, params, x, dout)
    bare = dataclasses.replace(config, query_latent_dim=None)
    want, want_dx, g = run(mla, bare, {**p, "w_q": down @ up, "w_qr": down @ p["w_qr"]}, x, dout)
    agree(out, want)
    agree(dx, want_dx)
    agree(grads["w_uq"], down.T @ g["w_q"])
    agree(grads["w_qr"], down.T @ g["w_qr"])
    agree(grads["w_dq"], g["w_q"] @ up.T + g["w_qr"] @ params["w_qr"].T)
