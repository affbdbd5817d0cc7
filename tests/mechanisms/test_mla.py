"""MLA: its two ways of computation agree and use the same cache, and they cost what its structure states."""

import dataclasses

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.mechanisms import mla

CONFIG = mla.Config(24, 4, latent_dim=10, nope_dim=6, rope_dim=4, value_dim=5, query_latent_dim=7)
CONFIGS = {
    "all": CONFIG,
    "queries from x": dataclasses.replace(CONFIG, query_latent_dim=None),
    "gate and biases": dataclasses.replace(CONFIG, gate="sigmoid", bias=True),
    "queries from x, biases": dataclasses.replace(CONFIG, query_latent_dim=None, gate="silu", bias=True),
    "no norm": dataclasses.replace(CONFIG, latent_norm=False),
    "no rope": dataclasses.replace(CONFIG, rope_dim=0),
    "interleaved": dataclasses.replace(CONFIG, rope_pairing="interleaved"),
    "own frequencies and scale": dataclasses.replace(
        CONFIG, rope_frequencies=(0.9, 0.2), rope_magnitude=1.2, score_scale=0.8
    ),
}
MASKS = {"causal": Mask(), "full": Mask(causal=False), "padded": Mask(k_start=[0, 4, 9], k_stop=[7, 9, 9])}
# two orders of a float64 sum of some tens of terms of size 1 differ by less
SAME = dict(rtol=0, atol=1e-12)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def make(config, rng, dtype="float64", length=9):
    params = mla.init(config, rng, dtype)
    for name, p in params.items():
        if not name.startswith("w_"):
            params[name] = (name.startswith("norm_") + 0.5 * rng.standard_normal(p.shape)).astype(dtype)
    return params, rng.standard_normal((3, length, config.hidden_size)).astype(dtype)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_both_ways_agree(config, mask, rng):
    """Both ways agree in their outputs, in all stages that both have, and in all gradients."""
    params, x = make(config, rng)
    dout = rng.standard_normal(x.shape)
    stages, grads = ({}, {}), []
    for absorb in (False, True):
        _, saved = mla.forward(params, x, config, mask=mask, trace=stages[absorb], absorb=absorb)
        dx, g = mla.backward(dout, saved)
        grads.append({**g, "dx": dx})
    assert stages[0].keys() ^ stages[1].keys() == {"k_nope", "v", "q_latent"}
    for name in (stages[0].keys() & stages[1].keys()) - {"q", "k", "z"}:  # latent in one way only
        np.testing.assert_allclose(stages[1][name], stages[0][name], **SAME, err_msg=name)
    for name, want in grads[0].items():
        assert np.abs(want).max() > 1e-2, name
        np.testing.assert_allclose(grads[1][name], want, **SAME, err_msg=name)


def test_the_ways_take_turns_on_one_cache(config, rng):
    params, x = make(config, rng)
    k_start = np.array([0, 3, 8])
    want, _ = mla.forward(params, x, config, mask=Mask(k_start=k_start))
    cache = KVCache(mla.structure(config).cached, 3, 9, "float64", k_start)
    outs = [mla.decode(params, x[:, t : t + n], cache, config, absorb=way) for t, n, way in [(0, 4, False), (4, 1, True), (5, 2, False), (7, 2, True)]]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(outs, axis=1), want, **SAME)


def test_defaults(rng):
    """By default forward decompresses and decode absorbs, as their different stages show."""
    params, x = make(CONFIG, rng)
    whole, step = {}, {}
    mla.forward(params, x, CONFIG, trace=whole)
    mla.decode(params, x, KVCache(mla.structure(CONFIG).cached, 3, 9, "float64"), CONFIG, trace=step)
    assert "k_nope" in whole
    assert "q_latent" in step


def test_what_is_cached(config, rng):
    """Both ways cache the latent after its norm and the shared key after RoPE: d_c + d_rope elements per token."""
    params, x = make(config, rng)
    trace = {}
    mla.forward(params, x, config, trace=trace)
    for absorb in (False, True):
        structure = mla.structure(config, absorb=absorb)
        assert structure.cache_elements == config.latent_dim + config.rope_dim
        cache = KVCache(structure.cached, 3, 9, "float64")
        mla.decode(params, x, cache, config, absorb=absorb)
        assert cache.used_nbytes == 3 * 9 * 8 * (config.latent_dim + config.rope_dim)
        held = cache.held()
        assert list(held) == (["c", "k_rope"] if config.rope_dim else ["c"])
        for name, array in held.items():
            np.testing.assert_array_equal(array, trace[name])
    if config.latent_norm:
        mean_square = np.mean((trace["c"] / params["norm_c"]) ** 2, axis=-1)
        np.testing.assert_allclose(mean_square, 1, rtol=1e-4)


class Counting(np.ndarray):
    """An array that counts the multiply–accumulates of every product in which it is a factor."""

    macs = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [np.asarray(i) if isinstance(i, Counting) else i for i in inputs]
        if out is not None:
            kwargs["out"] = tuple(np.asarray(o) if isinstance(o, Counting) else o for o in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            Counting.macs += result.size * plain[0].shape[-1]
        return result.view(Counting) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function, types, args, kwargs):
        result = super().__array_function__(function, types, args, kwargs)
        return result.view(Counting) if isinstance(result, np.ndarray) else result  # concatenate loses the type


def counted(function, params, x, *args, **kwargs):
    Counting.macs = 0
    function({name: p.view(Counting) for name, p in params.items()}, x.view(Counting), *args, **kwargs)
    return Counting.macs


@pytest.mark.parametrize("absorb", [False, True], ids=["decompressed", "absorbed"])
def test_structure_counts_what_is_done(config, absorb, rng):
    """The multiply–accumulates of real runs, per new token, per cached token, and per pair in the core.

    The reference engine computes every pair of a query and a slot, whether it is visible or not.
    """
    params, x = make(config, rng)
    s = mla.structure(config, absorb=absorb)
    assert s.linear_macs == mla.structure(config, absorb=not absorb).linear_macs
    got = counted(mla.forward, params, x, config, absorb=absorb, engine="reference", need_saved=False)
    assert got == 3 * (9 * s.linear_macs + 9 * 9 * s.attention_macs)

    cache = KVCache(s.cached, 3, 9, "float64")
    past = 0
    for n in (5, 1, 3):
        got = counted(mla.decode, params, x[:, past : past + n], cache, config, absorb=absorb, engine="reference")
        new = (s.linear_macs - s.held_macs) * n
        held = s.held_macs * (past + n)
        assert got == 3 * (new + held + n * (past + n) * s.attention_macs), (past, n)
        past += n
    assert (s.held_macs == 0) == absorb


def test_core_sizes():
    c = CONFIG
    plain, absorbed = mla.structure(c), mla.structure(c, absorb=True)
    assert (plain.n_q, plain.n_k, plain.n_v, plain.d_k, plain.d_v) == (4, 4, 4, 6 + 4, 5)
    assert (absorbed.n_q, absorbed.n_k, absorbed.n_v, absorbed.d_k, absorbed.d_v) == (4, 1, 1, 10 + 4, 10)
    assert plain.cached == absorbed.cached == {"c": (1, 10), "k_rope": (1, 4)}
    assert {p.name for p in plain.products if p.held} == {"w_uk", "w_uv"}


def test_the_papers_row():
    """The paper's row, for n_h·d_nope = H, d_v = d_nope and q from x: cache d_c + d_rope, attention n_h (d_rope +
    2 d_nope), and the linear part as below.
    """
    n_h, d_c, d_nope, d_rope = 16, 96, 24, 8
    hidden = n_h * d_nope
    s = mla.structure(mla.Config(hidden, n_h, d_c, d_nope, d_rope, d_nope))
    assert s.cache_elements == d_c + d_rope
    assert s.attention_macs == n_h * (d_rope + 2 * d_nope)
    assert s.linear_macs == (
        (d_c + d_rope) * hidden + n_h * (d_rope + d_nope) * hidden + 2 * n_h * d_c * d_nope + hidden**2
    )


def test_deepseek_v2():
    config = mla.Config.preset("deepseek-v2")
    s, absorbed = mla.structure(config), mla.structure(config, absorb=True)
    assert config.rope_pairing == "interleaved"
    assert s.cache_elements == 576
    assert s.attention_macs == 128 * (192 + 128)
    assert absorbed.attention_macs == 128 * (576 + 512)
    # W_DQ, W_UQ and W_QR, W_DKV and W_KR, W_UK and W_UV, W_O; and the gains of two norms
    weights = 5120 * 1536 + 1536 * 128 * 192 + 5120 * 576 + 512 * 128 * 256 + 128 * 128 * 5120
    assert s.linear_macs == absorbed.linear_macs == weights
    assert s.parameters == absorbed.parameters == weights + 1536 + 512
    assert s.held_macs == 512 * 128 * 256
    assert absorbed.held_macs == 0


def test_parameters_count_every_array(config):
    total = sum(int(np.prod(shape)) for shape in mla.param_shapes(config).values())
    assert mla.structure(config).parameters == mla.structure(config, absorb=True).parameters == total


GOOD = dict(hidden_size=24, n_heads=4, latent_dim=10, nope_dim=6, rope_dim=4, value_dim=5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(hidden_size=0), "hidden_size=0 must be a whole number of at least 1"),
        (dict(n_heads=2.0), r"n_heads=2\.0 must be a whole number of at least 1"),
        (dict(latent_dim=-1), "latent_dim=-1 must be a whole number of at least 1"),
        (dict(nope_dim=0), "nope_dim=0 must be a whole number of at least 1"),
        (dict(rope_dim=-2), "rope_dim=-2 must be a whole number of at least 0"),
        (dict(rope_dim=3), "rope_dim=3 must be even: RoPE turns pairs of features"),
        (dict(value_dim="5"), "value_dim='5' must be a whole number of at least 1"),
        (dict(query_latent_dim=0), "query_latent_dim=0 must be a whole number of at least 1"),
        (dict(latent_norm=1), "latent_norm=1 must be True or False"),
        (dict(norm_eps=0), "norm_eps=0 must be a finite number above 0"),
        (dict(rope_theta=None), "rope_theta=None must be a number above 0"),
        (dict(rope_pairing="both"), "rope_pairing='both' must be one of 'half', 'interleaved', 'none'"),
        (dict(gate="tanh"), "gate='tanh' must be one of 'sigmoid', 'silu', 'relu2', 'none'"),
        (dict(bias=0), "bias=0 must be True or False"),
    ],
)
def test_refused_sizes(change, message):
    mla.Config(**GOOD)
    with pytest.raises(ValueError, match=message):
        mla.Config(**{**GOOD, **change})


def test_refused_ways(rng):
    params, x = make(CONFIG, rng)
    cache = KVCache(mla.structure(CONFIG).cached, 3, 9, "float64")
    for call in (
        lambda: mla.forward(params, x, CONFIG, absorb=1),
        lambda: mla.decode(params, x, cache, CONFIG, absorb=1),
        lambda: mla.structure(CONFIG, absorb=1),
    ):
        with pytest.raises(ValueError, match="absorb=1 must be True or False"):
            call()
    with pytest.raises(ValueError, match="preset='deepseek' must be one of 'deepseek-v2'"):
        mla.Config.preset("deepseek")
    with pytest.raises(ValueError, match="append: unknown k_rope; expected c"):  # the cache of another kind of layer
        mla.decode(params, x, KVCache({"c": (1, 10)}, 3, 9, "float64"), CONFIG)
