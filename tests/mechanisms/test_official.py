"""One attention layer against the authors' own code (plm-team/GTA d56d00c, run in float64).

Their numbers are good to about 1e-14; the bound is 1e-12 of the largest value of each array.
"""

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.mechanisms import gta
from gta_ref.weights.official import load_official, save_official

pytestmark = pytest.mark.official
CASES = ["attention_basic", "attention_grouped", "attention_left_padded"]


def assert_close(got, want, name):
    assert got.shape == want.shape, name
    assert got.dtype == np.float64
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= 1e-12, f"{name}: {error}"


@pytest.fixture(params=CASES)
def layer(request, official):
    case = official(request.param)
    case.params_config, case.params = load_official(case.param, case.config)
    case.x = case.input["hidden_states"]
    real = case.input.get("attention_mask", np.ones(case.x.shape[:2])) > 0
    case.real = real  # the authors' code leaves the rows of padding tokens unspecified
    case.mask = Mask(k_start=(~real).sum(axis=1))
    return case


def test_official_output_and_maps(layer):
    trace = {}
    out, _ = gta.forward(layer.params, layer.x, layer.params_config, mask=layer.mask, trace=trace)
    assert_close(out[layer.real], layer.output["attn_output"][layer.real], "attn_output")
    maps, want = (a.swapaxes(1, 2)[layer.real] for a in (trace["map"], layer.output["attn_weights"]))
    assert_close(maps, want, "attn_weights")


def test_official_positions_are_the_default(layer):
    """Every stage is the same with them, even for padding tokens, whose rows do not reach the output."""
    given, default = {}, {}
    positions = layer.input["position_ids"]
    gta.forward(layer.params, layer.x, layer.params_config, mask=layer.mask, positions=positions, trace=given)
    gta.forward(layer.params, layer.x, layer.params_config, mask=layer.mask, trace=default)
    for name, stage in given.items():
        np.testing.assert_array_equal(stage, default[name], err_msg=name)


def test_official_gradients(layer):
    _, saved = gta.forward(layer.params, layer.x, layer.params_config, mask=layer.mask)
    dx, grads = gta.backward(layer.input["d_attn_output"], saved)
    assert grads.keys() == layer.params.keys()
    assert_close(dx, layer.grad["hidden_states"], "hidden_states")
    state = save_official(grads, layer.params_config)
    assert state.keys() == layer.grad.keys() - {"hidden_states"}
    for name, grad in state.items():
        assert_close(grad, layer.grad[name], name)


def test_official_decode_and_cache(layer):
    cached = gta.structure(layer.params_config).cached
    cache = KVCache(cached, *layer.x.shape[:2], "float64", k_start=layer.mask.k_start)
    steps = [
        gta.decode(layer.params, layer.x[:, t : t + 1], cache, layer.params_config) for t in range(layer.x.shape[1])
    ]
    # the left-padded file has no decoding, so that decoding is compared with its full forward
    want = layer.output.get("decode_attn_output", layer.output["attn_output"])
    assert_close(np.concatenate(steps, axis=1)[layer.real], want[layer.real], "decode")
    if layer.cache:
        assert_close(cache.held()["k"], layer.cache["key"], "cache.key")
        assert_close(cache.held()["c"], layer.cache["value"], "cache.value")


def test_official_definition(layer):
    """Eq. 7, computed as written, has the authors' numbers, too."""
    out = gta.forward_unabsorbed(layer.params, layer.x, layer.params_config, mask=layer.mask)
    assert_close(out[layer.real], layer.output["attn_output"][layer.real], "attn_output")


def test_official_decoder_weight_is_not_a_transpose(official):
    """Reading v_b_proj as a transpose makes numbers of the right size that are wrong."""
    case = official("attention_grouped")
    config, params = load_official(case.param, case.config)
    transposed = case.param["v_b_proj.weight"].T.reshape(params["w_p"].shape)
    out, _ = gta.forward({**params, "w_p": np.ascontiguousarray(transposed)}, case.input["hidden_states"], config)
    want = case.output["attn_output"]
    assert np.abs(out - want).max() / np.abs(want).max() > 0.1
    assert 0.5 < out.std() / want.std() < 2
