"""GTA: both orders of computation agree, decoding agrees with forward, sizes, and errors."""

import dataclasses

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
# two orders of a float64 sum of some tens of terms of size 1 differ by less
SAME = dict(rtol=0, atol=1e-12)


@pytest.fixture(params=FORMS)
def config(request):
    return FORMS[request.param]


def make(config, rng, batch=3, length=9, dtype="float64"):
    """Random parameters, including biases, and x."""
    params = gta.init(config, rng, dtype)
    for name in params:
        if name.startswith("b_"):
            params[name] = rng.standard_normal(params[name].shape).astype(dtype)
    return params, rng.standard_normal((batch, length, config.hidden_size)).astype(dtype)


MASKS = {"causal": Mask(), "left padding": Mask(k_start=[0, 4, 9]), "ragged": Mask(k_stop=[9, 3, 0])}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_layer_is_its_definition(config, mask, rng):
    """Eq. 8 (attend, then decode) against Eq. 7 (decode, then attend) in plain loops."""
    params, x = make(config, rng)
    out, _ = gta.forward(params, x, config, mask=mask)
    np.testing.assert_allclose(gta.forward_unabsorbed(params, x, config, mask=mask), out, **SAME)


def test_the_definition_takes_positions(rng):
    params, x = make(SMALL, rng)
    positions = rng.integers(0, 100, x.shape[:2])
    out, _ = gta.forward(params, x, SMALL, positions=positions)
    np.testing.assert_allclose(gta.forward_unabsorbed(params, x, SMALL, positions=positions), out, **SAME)


@pytest.mark.parametrize("chunks", [[1] * 9, [9], [4, 1, 3, 1], [0, 5, 0, 4]], ids=str)
def test_decode_continues_forward(config, chunks, rng):
    k_start = np.array([0, 2, 9])  # the last sequence contains only padding
    params, x = make(config, rng)
    want, _ = gta.forward(params, x, config, mask=Mask(k_start=k_start))
    cache = KVCache(gta.structure(config).cached, 3, 9, "float64", k_start)
    for a in cache.arrays.values():
        a[...] = np.nan  # slots that are not yet written must not matter
    outs = [gta.decode(params, x[:, stop - n : stop], cache, config) for n, stop in zip(chunks, np.cumsum(chunks), strict=True)]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(outs, axis=1), want, **SAME)
    assert cache.length == 9


def test_padding_does_not_matter(config, rng):
    """A left-padded sequence has the same result as the sequence alone."""
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
    """A change of another token changes the values that a query sees, but not the gate of the query."""
    params, x = make(SMALL, rng, batch=1)
    before, after = {}, {}
    gta.forward(params, x, SMALL, trace=before)
    x[:, 3] *= 2
    gta.forward(params, x, SMALL, trace=after)
    others = [t for t in range(9) if t != 3]
    np.testing.assert_array_equal(after["gate"][:, others], before["gate"][:, others])
    assert np.abs(after["gate"][:, 3] - before["gate"][:, 3]).max() > 1e-3
    assert np.abs(after["values"][:, 4:] - before["values"][:, 4:]).max(axis=-1).min() > 1e-3
    np.testing.assert_array_equal(after["heads"], after["values"] * after["gate"])


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
    """Stages are stored in 16 bits; the result differs from that in float32 by a few roundings."""
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
    # six stages are rounded between x and out, and twelve between x and dx, each by half a unit of the largest value
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
        (dict(mask=Mask(k_start=[0, 1])), r"k_start has shape \(2,\); expected \(3,\), one per sequence"),
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
        np.testing.assert_array_equal(single[name], p.astype(ml_dtypes.bfloat16))  # same seed, same model
        if name.startswith("b_"):
            assert not p.any()
    w = gta.init(gta.Config.preset("gta-1b"), np.random.default_rng(0), "float32")
    for name in ("w_q", "w_g", "w_o", "w_p"):
        # the standard deviation of n samples has a relative error of 1/√(2n): 0.1 % for the smallest of these
        assert np.std(w[name]) == pytest.approx(w[name].shape[-2] ** -0.5, rel=0.01)
