"""Hugging Face's config.json of Llama-like and DeepSeek-like models as configurations of this library.

Every field is applied, has to have the one value that this library computes, is known to change nothing, or is refused
by its name (:mod:`gta_ref.weights.config_fields`). What differs between the models of Llama's form, and is written in
their code and not in the file, is in `FAMILIES`; a model_type that is not there is refused, because its code may differ
in other ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gta_ref.errors import check_choice, check_divides, shown
from gta_ref.lm import model
from gta_ref.mechanisms import gqa, mla
from gta_ref.weights.config_fields import ConfigDict, Fields
from gta_ref.weights.config_rope import Rope, read_rope

DEEPSEEK_NORM_EPS = 1e-6  # DeepSeek's code fixes it for the latents' norms, whatever rms_norm_eps says
DEEPSEEK_TYPES = ("deepseek_v2", "deepseek_v3")


@dataclass(frozen=True)
class Family:
    """What a model_type stands for beyond the fields of its file.

    Attributes
    ----------
    bias : str or bool
        The field that gives the projections to q, k and v a bias, or what is always so.
    bias_default : bool
        The value of that field if it is missing.
    output_bias : bool
        Whether W_O then has a bias as well.
    partial : float or None
        The part of a head that RoPE turns if the file does not say it; None: always whole heads.
    pairing : str
        RoPE's pairing.
    qk_norm : bool
        Whether queries and keys pass through an RMSNorm.
    scale : str or None
        The field with the factor on the scores, if it is not 1/√d_h.
    swiglu : bool
        Whether the rest of the model is what :mod:`gta_ref.lm.model` computes.
    needs : tuple of str
        Fields whose defaults differ from Llama's, which therefore have to be there.
    """

    bias: str | bool = "attention_bias"
    bias_default: bool = False
    output_bias: bool = True
    partial: float | None = None
    pairing: str = "half"
    qk_norm: bool = False
    scale: str | None = None
    swiglu: bool = True
    needs: tuple[str, ...] = ()


FAMILIES = {
    "llama": Family(),
    "mistral": Family(bias=False, needs=("num_key_value_heads",)),
    "qwen2": Family(bias=True, output_bias=False, needs=("num_key_value_heads",)),
    "qwen3": Family(qk_norm=True, needs=("num_key_value_heads", "head_dim")),
    "granite": Family(scale="attention_multiplier", needs=("attention_multiplier",)),
    "stablelm": Family(
        bias="use_qkv_bias", output_bias=False, partial=0.25, swiglu=False, needs=("num_key_value_heads",)
    ),
    "glm": Family(
        bias_default=True,
        output_bias=False,
        partial=0.5,
        pairing="interleaved",
        swiglu=False,
        needs=("num_key_value_heads", "head_dim"),
    ),
}
# fields about other parts of a model, which do not concern one attention layer
_AROUND_NAMES = """
    vocab_size num_hidden_layers intermediate_size hidden_act hidden_activation mlp_bias tie_word_embeddings
    rms_norm_eps layer_norm_eps embedding_multiplier residual_multiplier logits_scaling use_parallel_residual
    moe_intermediate_size n_routed_experts n_shared_experts num_experts_per_tok n_group topk_group topk_method
    scoring_func norm_topk_prob routed_scaling_factor first_k_dense_replace moe_layer_freq
"""
_AROUND = tuple(_AROUND_NAMES.split())


def llama_attention(config_dict: ConfigDict) -> gqa.Config:
    """Read the attention of a model of Llama's form.

    Raises
    ------
    ValueError
        If a field is missing, unknown, or asks for anything that is not computed here; the message names the field.
    """
    fields = Fields("Llama config", config_dict)
    config = grouped_query(fields)
    fields.ignore(*_AROUND)
    fields.finish()
    return config


def llama_model(config_dict: ConfigDict, *, tied: bool) -> model.Config:
    """Read a whole model of Llama's form: RMSNorms, grouped-query attention, SwiGLU MLPs.

    Parameters
    ----------
    config_dict : mapping
    tied : bool
        Whether the head is the embedding's transpose if the file does not say it.

    Raises
    ------
    ValueError
        As :func:`llama_attention`; and if the model around the attention differs from :mod:`gta_ref.lm.model`.
    """
    fields = Fields("Llama config", config_dict)
    config = _llama_model(fields, tied)
    fields.finish()
    return config


def deepseek_attention(config_dict: ConfigDict) -> mla.Config:
    """Read the attention of DeepSeek-V2 and V3.

    Raises
    ------
    ValueError
        If a field is missing, unknown, or asks for anything that is not computed here; the message names the field.
    """
    fields = Fields("DeepSeek config", config_dict)
    config = latent(fields)
    fields.ignore(*_AROUND, "quantization_config")  # gta_ref.weights.fp8 reads it
    fields.finish()
    return config


def grouped_query(fields: Fields) -> gqa.Config:
    """Read the fields of the attention of a model of Llama's form, and leave the others to the caller."""
    name = fields.get("model_type", "llama")
    check_choice("model_type", name, tuple(FAMILIES))
    family = FAMILIES[name]
    fields.need("hidden_size", "num_attention_heads", *family.needs)
    hidden_size, n_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if fields.get("head_dim") is None:
        check_divides("num_attention_heads", n_heads, "hidden_size", hidden_size)
    head_dim = fields.size("head_dim", hidden_size // n_heads)
    n_k = fields.size("num_key_value_heads", n_heads)
    check_divides("num_key_value_heads", n_k, "num_attention_heads", n_heads)
    _whole_attention(fields)
    bias, output_bias = _biases(fields, family)
    rope = read_rope(fields, "head_dim", head_dim, family.partial)
    fields.only("rope_interleaved", False)  # of SmolLM; its value true is not read by any code
    fields.only("qk_layernorm", False)  # of StableLM: a LayerNorm with a gain for each head
    return gqa.Config(
        hidden_size,
        n_heads,
        head_dim,
        n_k,
        rope_theta=rope.theta,
        rope_pairing=family.pairing,
        rope_frequencies=rope.frequencies,
        rope_magnitude=rope.magnitude,
        score_scale=None if family.scale is None else fields.number(family.scale),
        qk_norm=family.qk_norm,
        norm_eps=fields.number("rms_norm_eps", 1e-6) if family.qk_norm else 1e-6,
        bias=bias,
        output_bias=output_bias,
    )


def _whole_attention(fields: Fields) -> None:
    """Raise ValueError unless every layer attends to all tokens, with RoPE."""
    if fields.truth("use_sliding_window", True):  # of Qwen, where sliding_window has no effect without it
        fields.only("sliding_window")
    fields.ignore("sliding_window")
    for name, only in (("layer_types", "full_attention"), ("no_rope_layers", 1)):  # one entry for every layer
        entries = fields.get(name, [])
        if not isinstance(entries, list) or any(entry != only for entry in entries):
            raise ValueError(f"{fields.what}: {name}={shown(entries)} must be null or a list of {only!r} alone")


def _biases(fields: Fields, family: Family) -> tuple[bool, bool]:
    """Whether q, k and v have biases, and whether W_O has one."""
    if isinstance(family.bias, str):
        bias = fields.truth(family.bias, family.bias_default)
    else:  # the code does not read attention_bias; a Qwen2 file with either value is the same model
        bias = family.bias
        fields.truth("attention_bias", False)
        if not bias:
            fields.only("attention_bias", False)
    return bias, bias and family.output_bias


def _llama_model(fields: Fields, tied: bool) -> model.Config:
    attention = grouped_query(fields)
    name = fields.get("model_type", "llama")
    if not FAMILIES[name].swiglu:
        allowed = ", ".join(repr(n) for n, family in FAMILIES.items() if family.swiglu)
        raise ValueError(f"{fields.what}: model_type={name!r} must be one of {allowed} for a whole model")
    fields.need("vocab_size", "num_hidden_layers", "intermediate_size", "rms_norm_eps")
    fields.only("hidden_act", "silu")
    fields.only("mlp_bias", False)
    for multiplier in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
        fields.only(multiplier, 1.0)
    return model.Config(
        fields.size("vocab_size"),
        fields.size("num_hidden_layers"),
        fields.size("intermediate_size"),
        attention,
        "gqa",
        norm_eps=fields.number("rms_norm_eps"),
        tied=fields.truth("tie_word_embeddings", tied),
    )


def latent(fields: Fields) -> mla.Config:
    """Read the fields of DeepSeek's attention, and leave the others to the caller."""
    check_choice("model_type", fields.get("model_type", "deepseek_v3"), DEEPSEEK_TYPES)
    positive = ("hidden_size", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
    fields.need(*positive, "qk_rope_head_dim", "q_lora_rank")
    fields.only("attention_bias", False)
    interleave = fields.truth("rope_interleave", True)
    sizes: dict[str, Any] = {name: fields.size(name) for name in positive}
    rope_dim = fields.size("qk_rope_head_dim", at_least=0)
    rank = fields.get("q_lora_rank")
    n_heads, nope_dim = sizes["num_attention_heads"], sizes["qk_nope_head_dim"]
    for name, only in (("num_key_value_heads", n_heads), ("head_dim", rope_dim), ("qk_head_dim", nope_dim + rope_dim)):
        fields.only(name, only, why="it has no other meaning in this architecture")
    _whole_attention(fields)
    if rope_dim:
        rope = read_rope(fields, "qk_rope_head_dim", rope_dim, None)
    else:  # nothing is turned, but YaRN would still change the factor on the scores
        fields.only("rope_scaling")
        fields.only("rope_parameters")
        fields.ignore("rope_theta")
        rope = Rope(10000.0, None, 1.0, 1.0)
    return mla.Config(
        hidden_size=sizes["hidden_size"],
        n_heads=n_heads,
        latent_dim=sizes["kv_lora_rank"],
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=sizes["v_head_dim"],
        query_latent_dim=None if rank is None else fields.size("q_lora_rank"),
        norm_eps=DEEPSEEK_NORM_EPS,
        rope_theta=rope.theta,
        rope_pairing="interleaved" if interleave else "half",
        rope_frequencies=rope.frequencies,
        rope_magnitude=rope.magnitude,
        score_scale=None if rope.on_scores == 1 else rope.on_scores / math.sqrt(nope_dim + rope_dim),
    )
