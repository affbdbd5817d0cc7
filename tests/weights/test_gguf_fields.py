"""GGUF files of Llama models: what llama.cpp reads is applied, and every other field of the model is refused by name.

The models are those that Hugging Face's code was run with (test_transformers.py), written as llama.cpp's converter
writes them: the rows of W_Q and W_K are put into the order in which RoPE's pairs are neighbours, n_head heads in W_Q
and n_head_kv in W_K, and Llama 3's frequencies become a tensor of divisors.
"""

import dataclasses

import numpy as np
import pytest

from gta_ref.lm import model
from gta_ref.mechanisms import gqa
from gta_ref.ops import rope_scaling
from gta_ref.weights import pretrained
from tests.weights.gguf_files import TINY, write
from tests.weights.transformers_data import read

_MISSING = pretrained.why_not(path="any.gguf")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

SCALING = "llama.rope.scaling."


def neighbours(rows, n_heads):
    """The rows of a projection, or its bias, in GGUF's order: feature t of a head beside feature t + d/2."""
    heads = rows.reshape(n_heads, 2, len(rows) // n_heads // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def converted(path, name, fields, more=None):
    """Write one of Hugging Face's models as GGUF, with `more` tensors; return ids and their logits."""
    parts, c = read(name)
    state = {key: x.astype(np.float32) for key, x in parts["param"].items()}
    n_heads, n_k = c["num_attention_heads"], c["num_key_value_heads"]
    extra = np.zeros((TINY.vocab_size - c["vocab_size"], c["hidden_size"]), np.float32)  # tokens that never occur
    tensors = {
        "token_embd.weight": np.concatenate([state["model.embed_tokens.weight"], extra]),
        "output_norm.weight": state["model.norm.weight"],
    }
    if not c["tie_word_embeddings"]:
        tensors["output.weight"] = np.concatenate([state["lm_head.weight"], extra])
    theirs = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    theirs |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    theirs |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for key, x in state.items():
        part = key.split(".")
        if part[1] != "layers":
            continue
        if part[-2] in ("q_proj", "k_proj"):
            x = neighbours(x, n_heads if part[-2] == "q_proj" else n_k)
        tensors[f"blk.{part[2]}.{theirs[part[-2]]}.{part[-1]}"] = x
    attention = gqa.Config(c["hidden_size"], n_heads, c["head_dim"], n_k, rope_pairing="interleaved", rope_theta=500.0)
    config = model.Config(
        TINY.vocab_size, c["num_hidden_layers"], c["intermediate_size"], attention, "gqa", tied=c["tie_word_embeddings"],
        norm_eps=c["rms_norm_eps"],
    )  # fmt: skip
    sizes = {"llama.attention.key_length": c["head_dim"], "llama.attention.value_length": c["head_dim"]}
    write(path, config, fields={**sizes, **fields}, tensors=tensors | (more or {}))
    return parts["input"]["ids"], parts["output"]["logits"]


def logits_of(path, ids):
    """In float64, and with the norms' epsilon as it was before it was rounded to float32."""
    got = pretrained.load(path=path)
    config = dataclasses.replace(got.config, norm_eps=0.01)
    params = {name: p.astype(np.float64) for name, p in got.params.items()}
    return model.forward(params, ids, config)[0][..., :23]


@pytest.mark.parametrize(
    "fields",
    [
        {SCALING + "type": "linear", SCALING + "factor": 3.0},
        {SCALING + "factor": 3.0},  # llama.cpp takes "linear" if no type is given
        {"llama.rope.scale_linear": 3.0},
        {SCALING + "factor": 3.0, "llama.rope.scale_linear": 5.0},
    ],
    ids=["type and factor", "factor", "older name", "both names"],
)
def test_linear_scaling_biases_and_rows_in_another_order(tmp_path, fields):
    ids, want = converted(tmp_path / "a.gguf", "model_llama_linear_bias", fields)
    got = logits_of(tmp_path / "a.gguf", ids)
    assert np.abs(got - want).max() <= 1e-13 * np.abs(want).max()  # as in test_transformers.py


def test_yarn(tmp_path):
    fields = {SCALING + "type": "yarn", SCALING + "factor": 4.0, SCALING + "original_context_length": 16}
    ids, want = converted(tmp_path / "a.gguf", "model_llama_yarn", {**fields, SCALING + "finetuned": True})
    got = logits_of(tmp_path / "a.gguf", ids)
    assert np.abs(got - want).max() <= 1e-13 * np.abs(want).max()


def test_llama3s_frequencies_are_a_tensor(tmp_path):
    plain = rope_scaling.plain_frequencies(8, 500.0)
    divisors = plain / rope_scaling.llama3_frequencies(8, 500.0, 4.0, 1.0, 4.0, 16)
    assert divisors.max() == 4
    ids, want = converted(tmp_path / "a.gguf", "model_llama_llama3", {})
    wrong = logits_of(tmp_path / "a.gguf", ids)
    assert np.abs(wrong - want).max() > 1e-3 * np.abs(want).max()
    converted(tmp_path / "b.gguf", "model_llama_llama3", {}, {"rope_freqs.weight": divisors.astype(np.float32)})
    got = logits_of(tmp_path / "b.gguf", ids)
    # a divisor that is rounded to float32 moves an angle of at most 20 by 20 · 6e-8, and the logits by a few times that
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_another_factor_on_the_scores(tmp_path):
    write(tmp_path / "a.gguf", fields={"llama.attention.scale": 0.125})
    assert pretrained.load(path=tmp_path / "a.gguf").config.attention.scale == 0.125
    write(tmp_path / "b.gguf", fields={"llama.attention.scale": 0.0})  # not set, in llama.cpp
    assert pretrained.load(path=tmp_path / "b.gguf").config == TINY


def test_what_has_no_effect(tmp_path):
    """The scaling "none" switches a factor off, and the values that llama.cpp takes for "not set" are accepted."""
    fields = {SCALING + "type": "none", SCALING + "factor": 4.0, "llama.logit_scale": 0.0, "llama.expert_count": 0}
    fields |= {"llama.attention.clamp_kqv": 0.0, "llama.vocab_size": 258, "general.file_type": 1}
    write(tmp_path / "a.gguf", fields={**fields, "llama.tensor_data_layout": "Meta AI original pth"})
    assert pretrained.load(path=tmp_path / "a.gguf").config == TINY


@pytest.mark.parametrize(
    "name, value",
    [
        ("attention.causal", False),
        ("attention.clamp_kqv", 8.0),
        ("attention.max_alibi_bias", 8.0),
        ("attention.sliding_window", 4096),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 8.0),
        ("embedding_scale", 12.0),
        ("residual_scale", 0.22),
        ("expert_count", 8),
        ("expert_used_count", 2),
        ("rope.scaling.yarn_ext_factor", 0.5),
        ("rope.scaling.yarn_attn_factor", 1.2),
        ("rope.scaling.yarn_log_multiplier", 0.1),
        ("rope.scaling.attn_factor", 1.2),
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.factor", -1.0),
        ("rope.dimension_sections", [16, 24, 24]),
        ("rope.dimension_count", 8),
        ("attention.value_length", 8),
        ("attention.scale", -1.0),
        ("tensor_data_layout", "reference"),
        ("use_parallel_residual", True),
        ("attention.layer_norm_epsilon", 1e-5),
        ("attention.key_length_mla", 192),
        ("interleave_moe_layer_step", 1),
        ("something_nobody_has_heard_of", 1),
    ],
)
def test_a_field_that_changes_the_result_is_refused_by_its_name(tmp_path, name, value):
    write(tmp_path / "a.gguf", fields={f"llama.{name}": value})
    shown = "score_scale" if name == "attention.scale" else rf"llama\.{name}"
    with pytest.raises(ValueError, match=rf"a\.gguf: (unknown )?{shown}=") as caught:
        pretrained.load(path=tmp_path / "a.gguf")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path):
    write(tmp_path / "a.gguf", fields={"general.type": "adapter"})
    with pytest.raises(ValueError, match=r"general\.type='adapter' must be one of 'model'"):
        pretrained.load(path=tmp_path / "a.gguf")


def test_yarn_and_divisors_exclude_each_other(tmp_path):
    ones = {"rope_freqs.weight": np.ones(8, np.float32)}
    write(tmp_path / "a.gguf", fields={SCALING + "type": "yarn", SCALING + "factor": 4.0}, tensors=ones)
    with pytest.raises(ValueError, match=r"rope_freqs\.weight is there; expected it to be missing"):
        pretrained.load(path=tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", fields={SCALING + "type": "yarn", SCALING + "yarn_beta_fast": 0.5})
    with pytest.raises(
        ValueError, match=r"yarn_beta_fast=0\.5, yarn_beta_slow=1\.0 .* must be above 0, with beta_fast at least"
    ):
        pretrained.load(path=tmp_path / "b.gguf")
