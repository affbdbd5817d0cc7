"""What every mechanism other than GTA guarantees for its arrays: dtypes, precision, sizes of init, clear errors."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.mechanisms import gha, gqa, gva, mha, mla

OPTIONS: dict[str, Any] = dict(gate="sigmoid", bias=True)
MLA = mla.Config(24, 4, latent_dim=10, nope_dim=6, rope_dim=4, value_dim=5, query_latent_dim=7, **OPTIONS)
CASES = {
    "mha": (mha, mha.Config(24, 8, 4), {}),
    "gqa": (gqa, gqa.Config(24, 8, 4, n_k=2, output_bias=True, **OPTIONS), {}),
    "gva": (gva, gva.Config(24, 8, 4, n_q=4), {}),
    "gha": (gha, gha.Config(24, 8, 4, n_q=4, n_k=2, n_v=4, **OPTIONS), {}),
    "mla, decompressed": (mla, MLA, {"absorb": False}),
    "mla, absorbed": (mla, MLA, {"absorb": True}),
    "mla, bare": (mla, mla.Config(24, 4, 10, 6, 0, 5, latent_norm=False), {"absorb": True}),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def make(mechanism, config, rng, batch=3, length=9, dtype="float64"):
    """Random parameters, including biases and gains, and x."""
    params = mechanism.init(config, rng, dtype)
    for name, p in params.items():
        if not name.startswith("w_"):
            params[name] = (name.startswith("norm_") + 0.5 * rng.standard_normal(p.shape)).astype(dtype)
    return params, rng.standard_normal((batch, length, config.hidden_size)).astype(dtype)


def test_inputs_are_never_written(case, rng):
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)
    for a in (x, *params.values()):
        a.flags.writeable = False
    out, saved = mechanism.forward(params, x, config, **way)
    dout = rng.standard_normal(out.shape)
    dout.flags.writeable = False
    mechanism.backward(dout, saved)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision(case, dtype, rng):
    """Results have the dtype of the inputs, and every stage and gradient stays close to float64.

    A stage is rounded once, by at most eps/2, and passes its error on at about the same size. The longest path through
    the layer and back has 24 stages, so that the sum is bounded by 12 eps of the largest value.
    """
    mechanism, config, way = case
    low = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    params, x = make(mechanism, config, rng, length=7, dtype=low)
    dout = rng.standard_normal(x.shape).astype(low)

    def run(to):
        stages = {}
        out, saved = mechanism.forward({n: p.astype(to) for n, p in params.items()}, x.astype(to), config, trace=stages, **way)  # fmt: skip
        dx, grads = mechanism.backward(dout.astype(to), saved)
        return {**{n: a for n, a in stages.items() if n not in ("scores", "map")}, "out": out, "dx": dx, **grads}

    got, want = run(low), run(np.float64)
    assert list(got)[-len(params) :] == list(params)
    for name, exact in want.items():
        assert got[name].dtype == low, name
        error = np.abs(got[name].astype(np.float64) - exact).max() / np.abs(exact).max()
        assert error <= 12 * ml_dtypes.finfo(low).eps, f"{name}: {error / float(ml_dtypes.finfo(low).eps):.1f} eps"

    cache = KVCache(mechanism.structure(config).cached, 3, 7, low)
    steps = [mechanism.decode(params, x[:, t : t + 1], cache, config, **way) for t in range(7)]
    assert all(step.dtype == low for step in steps)
    error = np.abs(np.concatenate(steps, 1).astype(np.float64) - want["out"]).max() / np.abs(want["out"]).max()
    assert error <= 12 * ml_dtypes.finfo(low).eps


def test_init_is_the_same_in_every_dtype(case):
    mechanism, config, _ = case
    double, single = (mechanism.init(config, np.random.default_rng(3), dtype) for dtype in ("float64", "float32"))
    assert {name: p.shape for name, p in double.items()} == mechanism.param_shapes(config)
    for name, p in double.items():
        np.testing.assert_array_equal(single[name], p.astype(np.float32))
        if name.startswith("w_"):
            # the mean square of n normal numbers of variance 1/d_in has a relative error of about √(2/n); five times
            # that is allowed
            assert abs((p * p).mean() * p.shape[0] - 1) <= 5 * math.sqrt(2 / p.size), name
        else:
            assert (p == name.startswith("norm_")).all()


def test_backward_needs_saved(case, rng):
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)
    out, saved = mechanism.forward(params, x, config, need_saved=False, **way)
    assert saved is None
    with pytest.raises(ValueError, match="saved is None; expected what forward returns with need_saved=True"):
        mechanism.backward(out, saved)


def test_misfits_are_named(case, rng):
    mechanism, config, way = case
    params, x = make(mechanism, config, rng)

    def refuse(match, p=params, x=x, **arguments):
        with pytest.raises(ValueError, match=match):
            mechanism.forward(p, x, config, **arguments, **way)

    refuse(r"x has shape \(3, 9, 23\); expected \(B, N, 24\)", x=x[..., :-1])
    refuse("missing w_o", {name: p for name, p in params.items() if name != "w_o"})
    refuse("unknown w_z", {**params, "w_z": x})
    refuse(r"params\['w_o'\] has shape", {**params, "w_o": params["w_o"][:-1]})
    refuse(r"params\['w_o'\] has dtype float32; expected float64", {**params, "w_o": params["w_o"].astype("float32")})
    refuse("engine='slow' must be one of", engine="slow")
    if getattr(config, "rope_dim", 1):
        refuse(r"positions has dtype float64 .* expected integers", positions=np.arange(9.0))
