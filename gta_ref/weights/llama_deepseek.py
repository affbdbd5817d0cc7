"""Attention layers under the names of two common state dicts: Llama's (MHA, GQA) and DeepSeek-V3's (MLA).

There, linear layers hold (out, in) and multiply from the left; our matrices are the transpose. DeepSeek stores several
of our matrices as one, which is split here:

    kv_a_proj_with_mqa   rows: the latent (d_c), then the shared key with RoPE (d_rope)
    kv_b_proj            rows, head by head: d_nope rows of the key, then d_v rows of the value
    q_proj, q_b_proj     rows, head by head: d_nope rows without RoPE, then d_rope rows with it

All functions expect the tensors of one layer, without a prefix; :func:`gta_ref.lm.block.select` extracts them from
those of a whole model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.errors import check_params
from gta_ref.mechanisms import gqa, mha, mla
from gta_ref.mechanisms.headwise_config import param_shapes
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params
from gta_ref.weights import config_json, fp8
from gta_ref.weights.config_fields import ConfigDict
from gta_ref.weights.layouts import Names, Shapes, from_state, to_state


def load_llama_attention(state: Params, config_dict: ConfigDict) -> tuple[gqa.Config, dict[str, Array]]:
    """Turn one layer's Llama-style attention into a GQA configuration and parameters.

    Parameters
    ----------
    state : mapping of str to array
        q_proj, k_proj, v_proj and o_proj, each with .weight and, if `attention_bias` is true, .bias; for Qwen3 also
        q_norm.weight and k_norm.weight.
    config_dict : mapping
        The model's config.json. Applied are model_type (llama, mistral, qwen2, qwen3, granite, stablelm, glm; default
        llama), hidden_size, num_attention_heads, num_key_value_heads (default: the number of attention heads), head_dim
        (default: hidden_size / num_attention_heads), attention_bias (default false; a model of type "qwen2" has biases
        on q, k and v only), rope_theta (default 10000), partial_rotary_factor, rope_scaling or rope_parameters of the
        kinds "default", "linear", "llama3" and "yarn", Granite's attention_multiplier, Qwen3's rms_norm_eps.

    Returns
    -------
    config : gqa.Config
        If num_key_value_heads equals num_attention_heads, it is MHA in all but name.
    params : dict of str to array
        Copies, in the state's dtype. Gradients are converted in the same way.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or of another dtype; the message names every such tensor.
        Or if a field is missing or asks for what is not computed here (a sliding window, a soft cap, layers without
        RoPE, …), or may do so because it is unknown; the message names the field.
    """
    config = config_json.llama_attention(config_dict)
    return config, from_state("Llama state", state, llama_names(config), param_shapes(config))


def save_llama_attention(params: Params, config: gqa.Config | mha.Config) -> dict[str, Array]:
    """The inverse of :func:`load_llama_attention`: parameters, or gradients, under Llama's names and layouts.

    The weights show neither RoPE's frequencies nor the factor on the scores: config.json has to.

    Raises
    ------
    ValueError
        If Llama has no such layer (one with a gate, or with another RoPE pairing than "half"), or if a parameter does
        not fit.
    """
    if not isinstance(config, gqa.Config | mha.Config):
        raise ValueError(f"config is a {type(config).__module__}.Config; expected GQA's or MHA's")
    _check_only(config, "Llama", gate=("none",), rope_pairing=("half",))
    shapes = param_shapes(config)
    _check_params(params, shapes)
    return to_state(params, llama_names(config), shapes)


def load_deepseek_attention(state: Params, config_dict: ConfigDict) -> tuple[mla.Config, dict[str, Array]]:
    """Turn one layer's DeepSeek-V2/V3-style attention into an MLA configuration and parameters.

    Parameters
    ----------
    state : mapping of str to array
        q_proj.weight, or q_a_proj.weight, q_a_layernorm.weight and q_b_proj.weight with query compression;
        kv_a_proj_with_mqa.weight, kv_a_layernorm.weight, kv_b_proj.weight, o_proj.weight. Matrices may be in FP8, each
        with a weight_scale_inv, as DeepSeek-V3 publishes them; see :mod:`gta_ref.weights.fp8`.
    config_dict : mapping
        The model's config.json. Applied are hidden_size, num_attention_heads, q_lora_rank (null without query
        compression), kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, rope_theta (default 10000),
        rope_interleave (default true: RoPE pairs features 2t and 2t + 1; false: t and t + d_rope/2), rope_scaling or
        rope_parameters of the kinds "default", "linear", "llama3" and "yarn", quantization_config. YaRN's
        mscale_all_dim is a factor on the scores: 1.59 for V2-Lite, 1.87 for V3.

    Returns
    -------
    config : mla.Config
    params : dict of str to array
        Copies, in the state's dtype, or in float32 if it is FP8. Gradients are converted in the same way.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or of another dtype; the message names every such tensor.
        Or if a field is missing or asks for what this library's MLA does not have (biases, …), or may do so because it
        is unknown; the message names the field.
    """
    config = config_json.deepseek_attention(config_dict)
    state = fp8.dequantised("DeepSeek state", state, config_dict)
    names, shapes = _deepseek_layout(config)
    params = from_state("DeepSeek state", state, names, shapes)
    for whole, (parts, heads) in _deepseek_parts(config).items():
        w = params.pop(whole)
        w = w.reshape(w.shape[0], heads, -1)  # (d_in, heads, widths of all parts)
        start = 0
        for name, width in parts.items():
            params[name] = w[..., start : start + width].reshape(w.shape[0], -1)  # (d_in, heads·width)
            start += width
    return config, {name: np.ascontiguousarray(params[name]) for name in mla.param_shapes(config)}


def save_deepseek_attention(params: Params, config: mla.Config) -> dict[str, Array]:
    """The inverse of :func:`load_deepseek_attention`: parameters, or gradients, under DeepSeek's names and layouts.

    The weights show neither RoPE's frequencies and pairing nor the factor on the scores: config.json has to. There,
    `rope_interleave` is the value of ``config.rope_pairing == "interleaved"``.

    Raises
    ------
    ValueError
        If DeepSeek's code has no such layer (one with a gate or biases, without the norms, with another epsilon in them
        than 1e-6, or without RoPE), or if a parameter does not fit.
    """
    if not isinstance(config, mla.Config):
        raise ValueError(f"config is a {type(config).__module__}.Config; expected MLA's")
    _check_only(
        config,
        "DeepSeek",
        gate=("none",),
        bias=(False,),
        latent_norm=(True,),
        norm_eps=(config_json.DEEPSEEK_NORM_EPS,),
        rope_pairing=("half", "interleaved"),
    )
    _check_params(params, mla.param_shapes(config))
    whole_params = dict(params)
    for whole, (parts, heads) in _deepseek_parts(config).items():
        split = [params[name].reshape(params[name].shape[0], heads, width) for name, width in parts.items()]
        whole_params[whole] = np.concatenate(split, axis=-1).reshape(split[0].shape[0], -1)
    names, shapes = _deepseek_layout(config)
    return to_state(whole_params, names, shapes)


def llama_names(config: gqa.Config | mha.Config) -> Names:
    """Llama's name → (our name, how the memory is converted), for one attention layer."""
    names = {}
    for ours in param_shapes(config):
        kind, _, letter = ours.partition("_")  # w_q, b_q, norm_q, …
        foreign = {"w": f"{letter}_proj.weight", "b": f"{letter}_proj.bias", "norm": f"{letter}_norm.weight"}[kind]
        names[foreign] = (ours, "transpose" if kind == "w" else "same")
    return names


def _deepseek_layout(config: mla.Config) -> tuple[Names, Shapes]:
    """Names and shapes of the tensors as they are in the state, where one tensor may hold several of our parameters."""
    c = config
    names = {
        "kv_a_proj_with_mqa.weight": ("kv_a", "transpose"),
        "kv_a_layernorm.weight": ("norm_c", "same"),
        "kv_b_proj.weight": ("kv_b", "transpose"),
        "o_proj.weight": ("w_o", "transpose"),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "kv_a": (c.hidden_size, c.latent_dim + c.rope_dim),
        "norm_c": (c.latent_dim,),
        "kv_b": (c.latent_dim, c.n_heads * (c.nope_dim + c.value_dim)),
        "w_o": (c.n_heads * c.value_dim, c.hidden_size),
    }
    query_width = c.n_heads * (c.nope_dim + c.rope_dim)
    if c.query_latent_dim is None:
        names["q_proj.weight"] = ("q", "transpose")
        shapes["q"] = (c.hidden_size, query_width)
    else:
        names |= {
            "q_a_proj.weight": ("w_dq", "transpose"),
            "q_a_layernorm.weight": ("norm_q", "same"),
            "q_b_proj.weight": ("q", "transpose"),
        }
        shapes["w_dq"] = (c.hidden_size, c.query_latent_dim)
        shapes["norm_q"] = (c.query_latent_dim,)
        shapes["q"] = (c.query_latent_dim, query_width)
    return names, shapes


def _deepseek_parts(config: mla.Config) -> dict[str, tuple[dict[str, int], int]]:
    """Name of a combined matrix → our parameters in it with their widths per head, and the number of heads."""
    c = config
    query = "w_q" if c.query_latent_dim is None else "w_uq"
    parts = {
        "q": ({query: c.nope_dim, "w_qr": c.rope_dim}, c.n_heads),
        "kv_a": ({"w_dkv": c.latent_dim, "w_kr": c.rope_dim}, 1),
        "kv_b": ({"w_uk": c.nope_dim, "w_uv": c.value_dim}, c.n_heads),
    }
    return {whole: ({n: width for n, width in of.items() if width}, heads) for whole, (of, heads) in parts.items()}


def _check_only(config: Any, whose: str, **allowed: tuple[Any, ...]) -> None:
    for field, values in allowed.items():
        value = getattr(config, field)
        if value not in values:
            raise ValueError(f"{field}={value!r} must be {' or '.join(map(repr, values))} in {whose}'s form")


def _check_params(params: Params, shapes: Shapes) -> None:
    check_params(params, shapes, getattr(next(iter(params.values()), None), "dtype", None))
