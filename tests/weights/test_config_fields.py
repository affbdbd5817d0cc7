"""No field of a config.json is overlooked: what may change the result is applied or refused by its name.

`REFUSED` has one line per field. The line fails if its field becomes one of `HARMLESS`, or is read and not used.
"""

import math

import pytest

from gta_ref.weights import config_json
from gta_ref.weights.config_fields import HARMLESS, Fields
from gta_ref.weights.llama import load_llama
from gta_ref.weights.llama_deepseek import load_deepseek_attention, load_llama_attention
from tests.weights.fields import AROUND, ATTENTION, DEEPSEEK, LATENT, LLAMA, MODEL

REFUSED = [
    *(("llama", name, value) for name, value in ATTENTION.items()),
    *(("model", name, value) for name, value in {**ATTENTION, **MODEL}.items()),
    *(("deepseek", name, value) for name, value in LATENT.items()),
]


def load(kind, **change):
    if kind == "llama":
        return load_llama_attention({}, {**LLAMA, **change})
    if kind == "model":
        return load_llama({}, {**LLAMA, **AROUND, **change})
    return load_deepseek_attention({}, {**DEEPSEEK, **change})


@pytest.mark.parametrize("kind, name, value", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_field_that_changes_the_result_is_refused_by_its_name(kind, name, value):
    with pytest.raises(ValueError, match=rf"config: (unknown )?{name}=") as caught:
        load(kind, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["llama", "model", "deepseek"])
def test_what_changes_nothing_is_known(kind):
    """Every harmless field is accepted with any value, and every unknown one as null."""
    fields = {**dict.fromkeys(HARMLESS - {"model_type"}, 3), "_name_or_path": "x", "_attn_implementation": "eager"}
    fields |= dict.fromkeys(ATTENTION)
    fields |= {"is_decoder": True, "pruned_heads": {}, "tie_encoder_decoder": False, "chunk_size_feed_forward": 0}
    fields |= {"sliding_window": 4096, "use_sliding_window": False} if kind != "deepseek" else {}
    if kind == "deepseek":
        del fields["kv_lora_rank"], fields["v_head_dim"]
    with pytest.raises(ValueError, match=r"state: (missing|num_hidden_layers=2 does not fit 0)"):  # only tensors lack
        load(kind, **fields)


def test_all_unknown_fields_are_named_at_once():
    with pytest.raises(ValueError, match=r"^Llama config: unknown clip_qkv=8, alibi=True; expected no field that may"):
        load("llama", clip_qkv=8, alibi=True)


@pytest.mark.parametrize("name", ["cohere", "gemma2", "phi3", "smollm3", "llama4_text", "olmo2", "mixtral", None, 3])
def test_other_model_types(name):
    if name is None:
        assert config_json.llama_attention({**LLAMA, "model_type": None}) == config_json.llama_attention(LLAMA)
    else:
        with pytest.raises(
            ValueError, match=f"model_type={name!r} must be one of 'llama', 'mistral', 'qwen2', 'qwen3'"
        ):
            load("llama", model_type=name)


@pytest.mark.parametrize("name, other", [("stablelm", 0.25), ("glm", 0.5)])
def test_defaults_that_are_written_in_the_models_code(name, other):
    """A file without partial_rotary_factor means the default of its model_type."""
    sizes = {**LLAMA, "head_dim": 8, "model_type": name}
    plain, given = (
        config_json.llama_attention({**sizes, **change}) for change in ({}, {"partial_rotary_factor": other})
    )
    assert plain == given
    assert plain.rope_frequencies == tuple(500.0 ** (-2 * t / (8 * other)) for t in range(int(8 * other) // 2))
    assert plain.bias == (name == "glm")
    assert plain.output_bias is False


def test_fields_without_which_a_default_would_be_guessed():
    for name, missing in (
        ("qwen3", "head_dim"),
        ("mistral", "num_key_value_heads"),
        ("granite", "attention_multiplier"),
    ):
        sizes = {key: value for key, value in LLAMA.items() if key != missing}
        with pytest.raises(ValueError, match=f"Llama config: missing {missing}"):
            load_llama_attention({}, {**sizes, "model_type": name})


def test_a_whole_model_needs_a_family_with_its_mlp():
    for name in ("stablelm", "glm"):
        with pytest.raises(ValueError, match=f"model_type={name!r} must be one of .* for a whole model"):
            load("model", model_type=name, head_dim=8)


BAD_ROPE = [
    ("linear", {"type": "linear"}, "of the kind 'linear': missing factor"),
    ("linear", {"type": "linear", "factor": 0}, "factor=0 must be a finite number above 0"),
    ("linear", {"type": "linear", "factor": 2.0, "mscale": 1.0}, "of the kind 'linear': unknown mscale"),
    ("dynamic", {"type": "dynamic", "factor": 2.0}, "has rope_type='dynamic'; expected one of 'default', 'linear'"),
    ("longrope", {"rope_type": "longrope", "short_factor": [1.0]}, "has rope_type='longrope'"),
    ("mrope", {"type": "mrope", "mrope_section": [16, 24, 24]}, "has rope_type='mrope'"),
    ("su", {"type": "su"}, "has rope_type='su'"),
    ("two kinds", {"type": "linear", "rope_type": "yarn", "factor": 2.0}, "has rope_type='linear'|'yarn'"),
    ("default with a factor", {"rope_type": "default", "factor": 2.0}, "'default': unknown factor; expected no other"),
    ("by layer type", {"full_attention": {"rope_theta": 1e4}}, "unknown full_attention"),
    ("llama3", {"rope_type": "llama3", "factor": 8.0}, "missing low_freq_factor, high_freq_factor"),
    (
        "llama3, bounds",
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
        r"high_freq_factor=4\.0 must be above low_freq_factor=4\.0",
    ),
    (
        "llama3, length",
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "missing original_max_position_embeddings",
    ),
    ("yarn", {"rope_type": "yarn", "factor": 8.0}, "missing original_max_position_embeddings"),
    (
        "yarn, unknown",
        {"rope_type": "yarn", "factor": 8.0, "llama_4_scaling_beta": 0.1},
        "unknown llama_4_scaling_beta",
    ),
    ("yarn, one mscale", {"rope_type": "yarn", "factor": 8.0, "mscale": 1.0}, "must both be there, or neither"),
    (
        "yarn, betas",
        {"rope_type": "yarn", "factor": 8.0, "beta_fast": 1, "beta_slow": 2},
        "beta_fast=1.0 must be at least beta_s",
    ),
    ("yarn, truncate", {"rope_type": "yarn", "factor": 8.0, "truncate": 1}, "truncate=1 must be True or False"),
    (
        "another base",
        {"rope_type": "default", "rope_theta": 400.0},
        "rope_theta=500.0 must be 400.0, as in the mapping",
    ),
    ("no mapping", "linear", "rope_scaling='linear' must be null or a mapping"),
]


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("case, scaling, message", BAD_ROPE, ids=[case for case, *_ in BAD_ROPE])
def test_refused_scalings(case, scaling, message, field):
    length = {} if "missing original" in message else {"max_position_embeddings": 64}
    with pytest.raises(ValueError, match=message.replace("rope_scaling", field)):
        load("llama", **{field: scaling}, **length)


@pytest.mark.parametrize("part", [0.1, 1.5, 0.75])
def test_a_part_that_is_no_pairs(part):
    with pytest.raises(ValueError, match=rf"partial_rotary_factor={part} of head_dim=4 gives"):
        load("llama", model_type="glm", partial_rotary_factor=part)


def test_two_mappings_about_rope_have_to_agree():
    scaling = {"rope_type": "linear", "factor": 2.0}
    both = config_json.llama_attention({**LLAMA, "rope_scaling": scaling, "rope_parameters": dict(scaling)})
    assert both == config_json.llama_attention({**LLAMA, "rope_scaling": scaling})
    with pytest.raises(ValueError, match="rope_scaling and rope_parameters differ; expected one of them"):
        load("llama", rope_scaling=scaling, rope_parameters={"rope_type": "linear", "factor": 4.0})


def test_where_the_original_length_is_taken_from():
    yarn = {"rope_type": "yarn", "factor": 4.0}
    name = "original_max_position_embeddings"
    inside = config_json.llama_attention({**LLAMA, "rope_scaling": {**yarn, name: 32}, "max_position_embeddings": 128})
    beside = config_json.llama_attention({**LLAMA, "rope_scaling": yarn, name: 32, "max_position_embeddings": 128})
    of_model = config_json.llama_attention({**LLAMA, "rope_scaling": yarn, "max_position_embeddings": 32})
    assert inside == beside == of_model
    with pytest.raises(ValueError, match=f"{name}=32 must be 64, as in the mapping about RoPE"):
        load("llama", rope_scaling={**yarn, name: 64}, **{name: 32})


@pytest.mark.parametrize("weight, factor", [(0.707, 1.59), (1.0, 1.87)], ids=["V2-Lite", "V3"])
def test_deepseeks_factor_on_the_scores(weight, factor):
    """YaRN's 0.1 · mscale · ln 40 + 1, squared, multiplies 1/√192, and nothing multiplies cos and sin."""
    scaling = {
        "type": "yarn",
        "factor": 40,
        "mscale": weight,
        "mscale_all_dim": weight,
        "beta_fast": 32,
        "beta_slow": 1,
    }
    config = config_json.deepseek_attention(
        {
            **DEEPSEEK,
            **dict(qk_nope_head_dim=128, qk_rope_head_dim=64, rope_theta=10000),
            "rope_scaling": {**scaling, "original_max_position_embeddings": 4096},
        }
    )
    assert config.scale * math.sqrt(192) == pytest.approx((0.1 * weight * math.log(40) + 1) ** 2, rel=1e-15)
    assert round(config.scale * math.sqrt(192), 2) == factor
    assert config.rope_magnitude == 1.0


def test_fields_take_no_other_thing_than_a_mapping():
    with pytest.raises(ValueError, match=r"^Llama config is a list; expected a mapping of field names"):
        load_llama_attention({}, [("hidden_size", 24)])
    with pytest.raises(ValueError, match=r"^x is None; expected a mapping"):
        Fields("x", None)
