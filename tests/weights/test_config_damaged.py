"""A configuration with wrong values in any fields gives a result or one line, never another exception.

Before the checks that these tests found missing, 174 of 60,000 such configurations ended in an OverflowError, a
KeyError or a MemoryError.
"""

import random
from typing import Any

import pytest

from gta_ref.weights import config_json, fp8
from gta_ref.weights.config_costs import costs_model
from gta_ref.weights.llama import load_llama
from gta_ref.weights.official import layer_config, load_official, model_config
from tests.weights.fields import AROUND, ATTENTION, DEEPSEEK, LLAMA, MODEL
from tests.weights.published import CONFIGS

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**63 - 1, 2**63, 2**70, 10**400),
    *(1.5, 0.25, -0.5, float("nan"), float("inf"), 1e308, "", "x", "silu", "linear", b"x"),
    *([], [1], [None], [[1]], {}, {"a": 1}, {1: 2}, {"type": "yarn"}, {"rope_type": [1]}, {"rope_theta": 10**400}),
    *({"type": "linear", "factor": "a"}, {"rope_theta": 1e308, "rope_type": "linear", "factor": 1e-308}),
    *(YARN, {**YARN, "original_max_position_embeddings": 10**400}, {**YARN, "beta_fast": 1e308, "beta_slow": 1e-308}),
    {**YARN, "factor": 1e300, "mscale": 1e308, "mscale_all_dim": 1e308},
    *(LLAMA3, {**LLAMA3, "original_max_position_embeddings": 0}),
]
OFFICIAL = dict(
    hidden_size=128,
    num_attention_heads=8,
    head_dim=16,
    num_query_heads=4,
    num_key_heads=2,
    num_value_heads=2,
    value_dim=16,
    vocab_size=9,
    num_hidden_layers=1,
    intermediate_size=4,
)
READERS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "llama attention": (config_json.llama_attention, [LLAMA, CONFIGS["llama-3-8b"], CONFIGS["qwen3-0.6b"]]),
    "llama model": (lambda c: load_llama({}, c), [{**LLAMA, **AROUND}, CONFIGS["smollm2-135m"]]),
    "deepseek attention": (config_json.deepseek_attention, [DEEPSEEK, CONFIGS["deepseek-v3"]]),
    "costs": (lambda c: costs_model("x", c), list(CONFIGS.values())),
    "official layer": (layer_config, [OFFICIAL]),
    "official model": (model_config, [OFFICIAL]),
    "fp8": (lambda c: fp8.dequantised("x", {}, c), [{"quantization_config": {"quant_method": "fp8"}}]),
}
NAMES = sorted(
    {name for _, bases in READERS.values() for base in bases for name in base}
    | set(ATTENTION)
    | set(MODEL)
    | {"rope_parameters", "max_position_embeddings", "original_max_position_embeddings"}
)
TYPES = ["llama", "mistral", "qwen2", "qwen3", "granite", "stablelm", "glm", "deepseek_v2"]


@pytest.mark.parametrize("reader", READERS)
def test_wrong_values_in_any_fields(reader):
    read, bases = READERS[reader]
    draw = random.Random(reader)
    refused = []
    for _ in range(1000):
        base = draw.choice(bases)
        config = dict(base)
        for _ in range(draw.choice([1, 1, 2, 3])):
            config[draw.choice(draw.choice([NAMES, sorted(base)]))] = draw.choice(VALUES)
        if "model_type" in config and draw.random() < 0.1:
            config["model_type"] = draw.choice(TYPES)
        try:
            read(config)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all("\n" not in line and len(line) < 1500 for line in refused)


def test_more_layers_than_tensors():
    """Names for them all would fill the memory."""
    many = dict(num_hidden_layers=2**62)
    with pytest.raises(ValueError, match=r"num_hidden_layers=4611686018427387904 does not fit 0 tensors"):
        load_llama({}, {**LLAMA, **AROUND, **many})
    with pytest.raises(ValueError, match=r"num_hidden_layers=4611686018427387904 does not fit 1 tensors"):
        load_official({"model.norm.weight": None}, {**OFFICIAL, **many})


def test_a_head_that_is_too_wide():
    for scaling in (None, {"type": "linear", "factor": 2.0}):
        with pytest.raises(ValueError, match="head_dim=2097152 must be at most 1048576"):
            config_json.llama_attention({**LLAMA, "head_dim": 2**21, "rope_scaling": scaling})
