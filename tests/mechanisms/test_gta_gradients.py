"""GTA's backward against finite differences: every element at tiny sizes, one direction at the sizes of GTA-1B."""

import itertools

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.mechanisms import gta
from gta_ref.verify.gradcheck import directional_error, elementwise_error, subset_error


def layer_of(config, mask=None):
    def layer(arrays):
        params = {name: a for name, a in arrays.items() if name != "x"}
        return gta.forward(params, arrays["x"], config, mask=mask, need_saved=False)[0]

    return layer


def make(config, rng, batch, length):
    params = gta.init(config, rng, "float64")
    for name in params:
        if name.startswith("b_"):
            params[name] = rng.standard_normal(params[name].shape)
    return {**params, "x": rng.standard_normal((batch, length, config.hidden_size))}


def gradients(config, inputs, dout, mask=None):
    params = {name: a for name, a in inputs.items() if name != "x"}
    _, saved = gta.forward(params, inputs["x"], config, mask=mask)
    dx, grads = gta.backward(dout, saved)
    return {**grads, "x": dx}


GATES = ("sigmoid", "silu", "relu2", "none")


@pytest.mark.parametrize("gate, residual", list(itertools.product(GATES, (False, True))))
def test_every_element(gate, residual, rng):
    config = gta.Config(5, 4, 4, n_q=2, n_k=1, n_c=2, latent_dim=4, gate=gate, decoder_residual=residual)
    inputs = make(config, rng, 2, 3)
    if gate == "relu2":  # far from 0, at which its second derivative jumps
        inputs["b_g"] = np.where(inputs["b_g"] > 0, 6.0, -6.0)
    mask = Mask(k_start=[0, 1])  # with a row that sees nothing
    dout = rng.standard_normal(inputs["x"].shape)
    grads = gradients(config, inputs, dout, mask)
    errors = elementwise_error(layer_of(config, mask), inputs, dout, grads)
    # rounding makes an error of 1e-16 / h = 1e-13 of the output in every difference; the error of the method is O(h⁴)
    assert max(errors.values()) <= 1e-8, errors


@pytest.mark.parametrize("name", ["gta-1b", "gta4-500m"])
def test_a_direction_at_published_sizes(name, rng):
    config = gta.Config.preset(name)
    inputs = make(config, rng, 1, 64)
    dout = rng.standard_normal(inputs["x"].shape)
    grads = gradients(config, inputs, dout)
    assert directional_error(layer_of(config), inputs, dout, grads, rng) <= 1e-7
    for wrong in ("w_k", "b_c", "w_p", "x"):  # an error of 1 % in one of them is detected
        error = directional_error(layer_of(config), inputs, dout, {**grads, wrong: 1.01 * grads[wrong]}, rng)
        assert error > 1e-5, wrong


def test_one_wrong_element_at_published_sizes(rng):
    """Two random subsets find one element of millions that is wrong by 10⁻⁴ of what its gradients typically are."""
    config = gta.Config.preset("gta-1b")
    inputs = make(config, rng, 1, 64)
    dout = rng.standard_normal(inputs["x"].shape)
    grads = gradients(config, inputs, dout)
    # rounding leaves about 1e-11; the resolution at 1e-9 is about 10⁻⁶ of the typical gradient (verify/gradcheck.py)
    assert subset_error(layer_of(config), inputs, dout, grads, rng, 2) <= 1e-9
    for name in ("w_k", "w_p"):
        wrong = grads[name].copy()
        wrong.flat[rng.integers(wrong.size)] += 1e-4 * np.sqrt(np.mean(wrong**2))
        assert subset_error(layer_of(config), inputs, dout, {**grads, name: wrong}, rng, 2) > 1e-9, name
