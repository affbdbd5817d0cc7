"""Attention layers and whole models against Hugging Face's own code, run once in float64 (make_transformers_data.py)."""

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.lm import model
from gta_ref.mechanisms import gqa, mla
from gta_ref.weights.layouts import to_state
from gta_ref.weights.llama import load_llama, save_llama
from gta_ref.weights.llama_deepseek import (
    llama_names,
    load_deepseek_attention,
    load_llama_attention,
    save_deepseek_attention,
)
from tests.weights.transformers_data import NAMES, read

LAYERS = [name for name in NAMES if not name.startswith("model_")]
MODELS = [name for name in NAMES if name.startswith("model_")]
# Both programs round sums of at most 100 terms, ten or so one after another: 1000 roundings of 1.1e-16 if all go the
# same way. The largest difference found was 4e-15.
CLOSE = 1e-13


def close(got, want, name=""):
    assert got.shape == want.shape, name
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= CLOSE, f"{name}: {error}"


def loaded(parts, config_dict):
    latent = config_dict["model_type"].startswith("deepseek")
    load = load_deepseek_attention if latent else load_llama_attention
    config, params = load(parts["param"], config_dict)
    return (mla if latent else gqa), config, params


def test_the_data_are_all_there():
    assert len(LAYERS) == 16
    assert len(MODELS) == 4
    kinds = {read(name)[1]["model_type"] for name in NAMES}
    assert kinds == {"llama", "qwen2", "qwen3", "granite", "stablelm", "glm", "deepseek_v2", "deepseek_v3"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_output_and_gradients(name):
    parts, config_dict = read(name)
    mechanism, config, params = loaded(parts, config_dict)
    for way in [{"absorb": False}, {"absorb": True}] if mechanism is mla else [{}]:
        out, saved = mechanism.forward(params, parts["input"]["x"], config, **way)
        close(out, parts["output"]["out"], "out")
        dx, grads = mechanism.backward(parts["input"]["d_out"], saved)
        if mechanism is mla:
            state = save_deepseek_attention(grads, config)
        else:  # save_llama_attention would refuse GLM's pairing
            state = to_state(grads, llama_names(config), gqa.param_shapes(config))
        assert state.keys() | {"x"} == parts["grad"].keys()
        for key, grad in {**state, "x": dx}.items():
            close(grad, parts["grad"][key], key)


@pytest.mark.parametrize("name", LAYERS)
def test_decoding_gives_the_same(name):
    parts, config_dict = read(name)
    mechanism, config, params = loaded(parts, config_dict)
    x = parts["input"]["x"]
    cache = KVCache(mechanism.structure(config).cached, 1, x.shape[1], "float64")
    outs = [mechanism.decode(params, x[:, i : i + 4], cache, config) for i in range(0, x.shape[1], 4)]
    close(np.concatenate(outs, axis=1), parts["output"]["out"])


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("name", MODELS)
def test_a_models_logits(name, engine):
    parts, config_dict = read(name)
    config, params = load_llama(parts["param"], config_dict)
    logits, _ = model.forward(params, parts["input"]["ids"], config, engine=engine)
    close(logits, parts["output"]["logits"])
    state = save_llama(params, config)
    assert state.keys() == parts["param"].keys()
    for key, x in state.items():
        np.testing.assert_array_equal(x, parts["param"][key], err_msg=key)


@pytest.mark.parametrize(
    "name, change",
    [
        ("llama_plain", {"rope_parameters": {"rope_theta": 400.0}}),
        ("llama_bias", {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 1.1}}),
        ("llama_linear", {"rope_parameters": {"rope_theta": 500.0}}),
        ("llama_llama3", {"rope_parameters": {"rope_theta": 500.0}}),
        ("llama_yarn", {"rope_parameters": {"rope_theta": 500.0}}),
        ("qwen3", {"rms_norm_eps": 0.02}),
        ("granite", {"attention_multiplier": 0.31}),
        ("stablelm_partial", {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}}),
        ("glm_partial", {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}}),
        ("deepseek_v2", {"rope_interleave": False}),
        ("deepseek_v3_yarn", {"rope_parameters": {"rope_theta": 500.0}}),
    ],
)
def test_the_comparison_sees_every_field(name, change):
    """With another value of the field the result is not theirs."""
    parts, config_dict = read(name)
    mechanism, config, params = loaded(parts, {**config_dict, **change})
    out, _ = mechanism.forward(params, parts["input"]["x"], config)
    assert np.abs(out - parts["output"]["out"]).max() > 1e-4 * np.abs(out).max()


def test_older_files_say_the_same_in_other_fields():
    """rope_scaling, rope_theta and partial_rotary_factor, as files had them before rope_parameters."""
    for name in LAYERS:
        parts, config_dict = read(name)
        rope = dict(config_dict["rope_parameters"])
        old = {key: value for key, value in config_dict.items() if key != "rope_parameters"}
        old |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        kind = rope.pop("rope_type")
        for scaling in ({"type": kind, **rope}, {"rope_type": kind, "type": kind, **rope}):
            if kind == "default":
                scaling = None
            assert loaded(parts, {**old, "rope_scaling": scaling})[1] == loaded(parts, config_dict)[1], name
