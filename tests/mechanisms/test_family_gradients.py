"""Each mechanism's backward against finite differences: every element at tiny sizes, one direction at real sizes."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.mechanisms import gha, gqa, gva, mha, mla
from gta_ref.ops.gate import GATES
from gta_ref.verify.gradcheck import directional_error, elementwise_error, subset_error

TINY: dict[str, Any] = {
    "mha": (mha, mha.Config(3, 2, 2), {}),
    "gqa": (gqa, gqa.Config(3, 4, 2, n_k=2, output_bias=True), {}),
    "gva": (gva, gva.Config(3, 4, 2, n_q=2), {}),
    "gha": (gha, gha.Config(3, 8, 2, n_q=4, n_k=2, n_v=4), {}),
    "gqa, qk_norm": (gqa, gqa.Config(3, 4, 4, n_k=2, qk_norm=True, norm_eps=0.1), {}),
    "gqa, partial rope, own scale": (
        gqa,
        gqa.Config(3, 4, 3, n_k=2, rope_frequencies=(0.7,), rope_magnitude=1.3, score_scale=0.9),
        {},
    ),
}
_MLA = mla.Config(3, 2, latent_dim=3, nope_dim=2, rope_dim=2, value_dim=3, query_latent_dim=4)
for _name, _config in {
    "mla": _MLA,
    "mla, queries from x": dataclasses.replace(_MLA, query_latent_dim=None, rope_pairing="interleaved"),
    "mla, own frequencies and scale": dataclasses.replace(
        _MLA, rope_frequencies=(0.7,), rope_magnitude=1.3, score_scale=0.9
    ),
    "mla, no norm, no rope": dataclasses.replace(_MLA, latent_norm=False, rope_dim=0),
}.items():
    for _absorb in (False, True):
        TINY[f"{_name}, {'absorbed' if _absorb else 'decompressed'}"] = (mla, _config, {"absorb": _absorb})


def make(mechanism, config, rng, batch, length):
    params = mechanism.init(config, rng, "float64")
    for name, p in params.items():
        if not name.startswith("w_"):
            params[name] = name.startswith("norm_") + 0.5 * rng.standard_normal(p.shape)
    return {**params, "x": rng.standard_normal((batch, length, config.hidden_size))}


def split(arrays):
    return {name: a for name, a in arrays.items() if name != "x"}, arrays["x"]


def layer_of(mechanism, config, way, mask=None):
    def layer(arrays):
        params, x = split(arrays)
        return mechanism.forward(params, x, config, mask=mask, need_saved=False, **way)[0]

    return layer


def gradients(mechanism, config, way, inputs, dout, mask=None):
    params, x = split(inputs)
    _, saved = mechanism.forward(params, x, config, mask=mask, **way)
    dx, grads = mechanism.backward(dout, saved)
    assert list(grads) == list(params)
    return {**grads, "x": dx}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", TINY)
def test_every_element(name, gate, rng):
    mechanism, config, way = TINY[name]
    config = dataclasses.replace(config, gate=gate, bias=True)
    inputs = make(mechanism, config, rng, 2, 3)
    if gate == "relu2":  # far from 0, at which its second derivative jumps
        inputs["b_g"] = np.where(inputs["b_g"] > 0, 6.0, -6.0)
    mask = Mask(k_start=[0, 1])  # with a row that sees nothing
    dout = rng.standard_normal(inputs["x"].shape)
    grads = gradients(mechanism, config, way, inputs, dout, mask)
    errors = elementwise_error(layer_of(mechanism, config, way, mask), inputs, dout, grads)
    # rounding makes an error of 1e-16 / h = 1e-13 of the output in every difference; the error of the method is O(h⁴)
    # times a fifth derivative, which an RMSNorm makes large if a token's latent is short
    assert max(errors.values()) <= 1e-8, errors


REAL = {
    "mha": (mha, mha.Config(768, 12, 64), {}),
    "gqa-1b": (gqa, gqa.Config.preset("gqa-1b"), {}),
    "gva": (gva, gva.Config(1280, 20, 64, n_q=5), {}),
    "gha": (gha, gha.Config(1280, 20, 64, n_q=10, n_k=2, n_v=10, gate="sigmoid", bias=True), {}),
    "gqa, qk_norm": (gqa, gqa.Config(768, 12, 128, n_k=4, qk_norm=True), {}),
    "mla, decompressed": (mla, mla.Config(768, 8, 256, 64, 32, 64, query_latent_dim=384), {"absorb": False}),
    "mla, absorbed": (mla, mla.Config(768, 8, 256, 64, 32, 64, query_latent_dim=384), {"absorb": True}),
    "mla, queries from x": (mla, mla.Config(768, 8, 256, 64, 32, 64, gate="sigmoid", bias=True), {"absorb": True}),
}


@pytest.mark.parametrize("name", REAL)
def test_a_direction_at_real_sizes(name, rng):
    mechanism, config, way = REAL[name]
    inputs = make(mechanism, config, rng, 1, 64)
    dout = rng.standard_normal(inputs["x"].shape)
    grads = gradients(mechanism, config, way, inputs, dout)
    layer = layer_of(mechanism, config, way)
    assert directional_error(layer, inputs, dout, grads, rng) <= 1e-7
    for wrong in ("w_o", "x"):  # an error of 1 % in one of them is detected
        assert directional_error(layer, inputs, dout, {**grads, wrong: 1.01 * grads[wrong]}, rng) > 1e-5, wrong
    assert subset_error(layer, inputs, dout, grads, rng, 2) <= 1e-8
    one = grads["w_o"].copy()  # and one wrong element of it
    one.flat[rng.integers(one.size)] += 1e-2 * np.sqrt(np.mean(one**2))
    assert subset_error(layer, inputs, dout, {**grads, "w_o": one}, rng, 2) > 1e-8
