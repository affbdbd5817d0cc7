"""GTA: the orders of computation agree, decoding continues what forward does, sizes and errors."""

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.core import EngineError, Mask
from gta_ref.mechanisms import gta

SMALL = gta.Config(24, n_heads=12, head_dim=4, n_q=6, n_k=2, n_c=3, latent_dim=4)
FORMS = {
    "paper": SMALL,
    "released": dataclasses.replace(SMALL, decoder_residual=True),
    "no gate": dataclasses.replace(SMALL, gate="none"),
    "silu": dataclasses.replace(SMALL, gate="silu"),
    "relu2": dataclasses.replace(SMALL, gate="relu2", decoder_residual=True),
    "no bias": dataclasses.replace(SMALL, bias=False),
    "interleaved": dataclasses.replace(SMALL, rope_pairing="interleaved"),
    "no rope": dataclasses.replace(SMALL, rope_pairing="none", head_dim=3, hidden_size=36),
    "heads wider than H": dataclasses.replace(SMALL, hidden_size=16),
}
# one order of float64 sums against another: some tens of terms of size 1
SAME = dict(rtol=0, atol=1e-12)


@pytest.fixture(params=FORMS)
def config(request):
    return FORMS[request.param]


def make(config, rng, batch=3, length=9, dtype="float64"):
    """Random parameters, the biases too, and x."""
    params = gta.init(config, rng, dtype)
    for name in params:
        if name.startswith("b_"):
            params[name] = rng.standard_normal(params[name].shape).astype(dtype)
    return params, rng.standard_normal((batch, length, config.hidden_size)).astype(dtype)


def by_the_definition(params, x, c, mask):
    """The layer as mechanism.md states it, one head and one token at a time, in plain loops.

    Eq. 7: V_i(t, s) = (C_s W_P,i) ⊙ gate(x_t W_G,i + b_G,i), then Σ_s A(t, s) V_i(t, s).
    """
    batch, length, _ = x.shape
    p = {**{f"b_{n}": 0.0 for n in "qkcg"}, **params}
    heads_per_map = c.n_heads // c.n_q

    def rope(v, position):
        if c.rope_pairing == "none":
            return v
        turned = v.copy()
        for t in range(c.head_dim // 2):
            a, b = (t, t + c.head_dim // 2) if c.rope_pairing == "half" else (2 * t, 2 * t + 1)
            angle = position * c.rope_theta ** (-2 * t / c.head_dim)
            turned[a] = v[a] * math.cos(angle) - v[b] * math.sin(angle)
            turned[b] = v[b] * math.cos(angle) + v[a] * math.sin(angle)
        return turned

    def activation(a):
        s = 1 / (1 + np.exp(-a))
        return {"sigmoid": s, "silu": a * s, "relu2": np.maximum(a, 0) ** 2, "none": np.ones_like(a)}[c.gate]

    visible = np.broadcast_to(mask.to_dense(length, length), (batch, length, length))
    starts = mask.resolve(batch, length, length)[1]
    out = np.zeros_like(x)
    for b in range(batch):
        q, k, latent = (x[b] @ p[f"w_{n}"] + p[f"b_{n}"] for n in "qkc")
        q = q.reshape(length, c.n_q, c.head_dim)
        k = k.reshape(length, c.n_k, c.head_dim)
        latent = latent.reshape(length, c.n_c, c.latent_dim)
        gate = x[b] @ p["w_g"] + p["b_g"] if c.gate != "none" else np.zeros((length, c.n_heads * c.head_dim))
        for t in range(length):
            seen = np.flatnonzero(visible[b, t])
            row = np.zeros(c.n_heads * c.head_dim)
            for i in range(c.n_heads if seen.size else 0):
                m = i // heads_per_map
                query = rope(q[t, m], max(0, t - starts[b]))
                key_head, latent_head = m // (c.n_q // c.n_k), m // (c.n_q // c.n_c)
                scores = np.array([query @ rope(k[s, key_head], max(0, s - starts[b])) for s in seen])
                weights = np.exp((scores - scores.max()) / math.sqrt(c.head_dim))
                weights /= weights.sum()
                within = slice((i % heads_per_map) * c.head_dim, (i % heads_per_map + 1) * c.head_dim)
                w_p = params["w_p"][m]
                if c.decoder_residual:
                    w_p = w_p + np.tile(np.eye(c.latent_dim), w_p.shape[1] // c.latent_dim)
                head = slice(i * c.head_dim, (i + 1) * c.head_dim)
                g = activation(gate[t, head])
                row[head] = sum(
                    w * ((latent[s, latent_head] @ w_p[:, within]) * g) for w, s in zip(weights, seen, strict=True)
                )
            out[b, t] = row @ p["w_o"]
    return out


MASKS = {"causal": Mask(), "left padding": Mask(k_start=[0, 4, 9]), "ragged": Mask(k_stop=[9, 3, 0])}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_three_orders_of_computation_agree(config, mask, rng):
    """Eq. 8 (attend, then decode), Eq. 7 (decode, then attend), and plain loops."""
    params, x = make(config, rng)
    out, _ = gta.forward(params, x, config, mask=mask)
    np.testing.assert_allclose(gta.forward_unabsorbed(params, x, config, mask=mask), out, **SAME)
    np.testing.assert_allclose(by_the_definition(params, x, config, mask), out, **SAME)


@pytest.mark.parametrize("chunks", [[1] * 9, [9], [4, 1, 3, 1], [0, 5, 0, 4]], ids=str)
def test_decode_continues_forward(config, chunks, rng):
    k_start = np.array([0, 2, 9])  # the last sequence is nothing but padding
    params, x = make(config, rng)
    want, _ = gta.forward(params, x, config, mask=Mask(k_start=k_start))
    cache = KVCache(gta.structure(config).cached, 3, 9, "float64", k_start)
    for a in cache.arrays.values():
        a[...] = np.nan  # what is not yet written must not matter
    outs = [gta.decode(params, x[:, stop - n : stop], cache, config) for n, stop in zip(chunks, np.cumsum(chunks), strict=True)]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(outs, axis=1), want, **SAME)
    assert cache.length == 9


def test_padding_does_not_matter(config, rng):
    """A left-padded sequence gives what the sequence alone gives."""
    params, x = make(config, rng)
    padded, _ = gta.forward(params, x, config, mask=Mask(k_start=[0, 4, 7]))
    for b, start in enumerate((0, 4, 7)):
        alone, _ = gta.forward(params, x[b : b + 1, start:], config)
        np.testing.assert_allclose(padded[b, start:], alone[0], **SAME)


def test_a_later_token_changes_nothing_before_it(config, rng):
    params, x = make(config, rng)
    before, _ = gta.forward(params, x, config)
    x[:, 6:] += 1
    after, _ = gta.forward(params, x, config)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-3


def test_the_gate_comes_from_the_query_alone(rng):
    """Scaling another token's gate input has no effect here, and the gate is the stage that says so."""
    params, x = make(SMALL, rng, batch=1)
    trace = {}
    gta.forward(params, x, SMALL, trace=trace)
    want = 1 / (1 + np.exp(-(x @ params["w_g"] + params["b_g"])))
    np.testing.assert_allclose(trace["gate"], want, rtol=1e-12)
    np.testing.assert_allclose(trace["heads"], trace["values"] * want, rtol=1e-12)


def test_fold_residual(rng):
    config = FORMS["released"]
    params, x = make(config, rng)
    folded, paper = gta.fold_residual(params, config)
    assert not paper.decoder_residual
    np.testing.assert_allclose(gta.forward(folded, x, paper)[0], gta.forward(params, x, config)[0], **SAME)
    with pytest.raises(ValueError, match="decoder_residual=False must be True"):
        gta.fold_residual(folded, paper)


def test_stages(config, rng):
    params, x = make(config, rng, batch=2, length=5)
    forward, backward = {}, {}
    out, saved = gta.forward(params, x, config, trace=forward)
    gta.backward(rng.standard_normal(out.shape), saved, trace=backward)
    c, width = config, config.n_heads * config.head_dim
    shapes = {
        "q_proj": (2, c.n_q, 5, c.head_dim),
        "k_proj": (2, c.n_k, 5, c.head_dim),
        "c": (2, c.n_c, 5, c.latent_dim),
        "q": (2, c.n_q, 5, c.head_dim),
        "k": (2, c.n_k, 5, c.head_dim),
        "scores": (2, c.n_q, 5, 5),
        "map": (2, c.n_q, 5, 5),
        "z": (2, c.n_q, 5, c.latent_dim),
        "values": (2, 5, width),
        "gate": (2, 5, width),
        "heads": (2, 5, width),
        "out": (2, 5, c.hidden_size),
    }
    order = ["out", "heads", "gate", "values", "z", "map", "scores", "k", "q", "c", "k_proj", "q_proj"]
    if config.gate == "none":
        del shapes["gate"]
        order.remove("gate")
    assert [(name, a.shape) for name, a in forward.items()] == list(shapes.items())
    assert [(name, a.shape) for name, a in backward.items()] == [(f"d_{name}", shapes[name]) for name in order]
    assert forward["out"] is out


def test_inputs_are_never_written(config, rng):
    params, x = make(config, rng)
    for a in (x, *params.values()):
        a.flags.writeable = False
    out, saved = gta.forward(params, x, config)
    dout = rng.standard_normal(out.shape)
    dout.flags.writeable = False
    gta.backward(dout, saved)
    gta.forward_unabsorbed(params, x, config)
    gta.decode(params, x, KVCache(gta.structure(config).cached, 3, 9, "float64"), config)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype, rng):
    """Stages are stored in 16 bits; the result is float32's to a few of their roundings."""
    low = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    params, x = make(SMALL, rng)
    params, x = {name: p.astype(low) for name, p in params.items()}, x.astype(low)
    trace = {}
    out, saved = gta.forward(params, x, SMALL, trace=trace)
    dx, grads = gta.backward(out, saved)
    for name, a in {**trace, "dx": dx, **grads}.items():
        assert a.dtype == (np.float32 if name in ("scores", "map") else low), name
    wide = {name: p.astype(np.float64) for name, p in params.items()}
    exact, saved = gta.forward(wide, x.astype(np.float64), SMALL)
    exact_dx, _ = gta.backward(out.astype(np.float64), saved)
    # six stages are rounded between x and out, twelve between x and dx: half a unit each, relative to the largest
    half_unit = 2.0 ** -(9 if dtype == "bfloat16" else 12)
    for got, want, roundings in ((out, exact, 6), (dx, exact_dx, 12)):
        assert np.abs(got.astype(np.float64) - want).max() <= 2 * roundings * half_unit * np.abs(want).max()
    cache = KVCache(gta.structure(SMALL).cached, 3, 9, dtype)
    np.testing.assert_array_equal(gta.decode(params, x, cache, SMALL).view(np.uint16), out.view(np.uint16))


def test_a_failed_decode_leaves_the_cache(rng):
    params, x = make(SMALL, rng)
    cache = KVCache(gta.structure(SMALL).cached, 3, 9, "float64")
    gta.decode(params, x[:, :4], cache, SMALL)
    for arguments, error in (
        (dict(x=x), "capacity=9 is too small: 4 tokens are held and 9 more came"),
        (dict(engine="triton"), "engine='triton' must be one of"),
        (dict(engine="cuda"), "engine 'cuda' cannot run here"),
        (dict(x=x[:2]), r"x has shape \(2, 9, 24\); expected \(3, N, 24\), the cache's batch"),
        (dict(x=x.astype("float32")), r"params\['w_q'\] has dtype float64; expected float32"),
    ):
        with pytest.raises((ValueError, EngineError), match=error):
            gta.decode(params, **{"x": x[:, 4:6], "cache": cache, "config": SMALL, **arguments})
        assert cache.length == 4
    with pytest.raises(ValueError, match="append: missing"):
        gta.decode(params, x, KVCache({"k": (2, 4), "v": (3, 4)}, 3, 9, "float64"), SMALL)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(x=[1]), "x is a list; expected an array of floats"),
        (dict(x=np.zeros((3, 9, 24), int)), "x has dtype int64; expected one of float64, float32, float16, bfloat16"),
        (dict(x=np.zeros((9, 24))), r"x has shape \(9, 24\); expected \(B, N, 24\)"),
        (dict(x=np.zeros((3, 9, 25))), r"x has shape \(3, 9, 25\); expected \(B, N, 24\)"),
        (
            dict(positions=np.zeros(9)),
            r"positions has dtype float64 and shape \(9,\); expected integers \(9,\) or \(3, 9\)",
        ),
        (dict(positions=np.zeros((2, 9), int)), r"positions has dtype int64 and shape \(2, 9\)"),
        (dict(mask=Mask(k_start=[0, 1])), r"k_start has shape \(2,\); expected \(3,\), one a sequence"),
        (dict(params={}), "params: missing b_c, b_g"),
        (dict(engine="fast"), "engine='fast' must be one of"),
    ],
)
def test_wrong_arguments(arguments, message, rng):
    params, x = make(SMALL, rng)
    with pytest.raises(ValueError, match=message):
        gta.forward(**{"params": params, "x": x, "config": SMALL, **arguments})


def test_wrong_parameters_are_named(rng):
    params, x = make(SMALL, rng)
    for name, wrong, message in (
        ("w_p", params["w_p"].swapaxes(1, 2)[:, :, :3], r"params\['w_p'\] has shape \(6, 8, 3\); expected \(6, 4, 8\)"),
        ("b_q", params["b_q"].astype("float32"), r"params\['b_q'\] has dtype float32; expected float64, as the input"),
        ("w_x", params["w_q"], "params: unknown w_x"),
    ):
        with pytest.raises(ValueError, match=message):
            gta.forward({**params, name: wrong}, x, SMALL)
    with pytest.raises(ValueError, match="saved is None; expected what forward returns"):
        gta.backward(x, gta.forward(params, x, SMALL, need_saved=False)[1])


def test_init(config):
    params = gta.init(config, np.random.default_rng(5), "float64")
    single = gta.init(config, np.random.default_rng(5), "bfloat16")
    assert {name: p.shape for name, p in params.items()} == gta.param_shapes(config)
    for name, p in params.items():
        np.testing.assert_array_equal(single[name], p.astype(ml_dtypes.bfloat16))  # one seed, one model
        if name.startswith("b_"):
            assert not p.any()
    w = gta.init(gta.Config.preset("gta-1b"), np.random.default_rng(0), "float32")
    for name in ("w_q", "w_g", "w_o", "w_p"):
        # the deviation of n samples is known to 1/√(2n): 0.1 % for the smallest of these
        assert np.std(w[name]) == pytest.approx(w[name].shape[-2] ** -0.5, rel=0.01)
