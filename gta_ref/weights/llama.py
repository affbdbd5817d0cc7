"""A whole model of Llama's form from its state dict: Llama, SmolLM2, Mistral, Qwen2, Qwen3.

It is what :mod:`gta_ref.lm.model` computes with mechanism "gqa"; only names and layouts differ. The tensors are those
of the files that Hugging Face's library writes, read by :func:`gta_ref.weights.official.read_state`.
"""

from __future__ import annotations

import numpy as np

from gta_ref.lm import model
from gta_ref.mechanisms import gqa
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params
from gta_ref.weights import config_json
from gta_ref.weights.config_fields import ConfigDict
from gta_ref.weights.layouts import Names, from_state, to_state
from gta_ref.weights.llama_deepseek import llama_names

_HEAD, _EMBED = "lm_head.weight", "model.embed_tokens.weight"
_BLOCK = {
    "input_layernorm.weight": ("norm_1", "same"),
    "post_attention_layernorm.weight": ("norm_2", "same"),
    "mlp.gate_proj.weight": ("mlp.w_gate", "transpose"),
    "mlp.up_proj.weight": ("mlp.w_up", "transpose"),
    "mlp.down_proj.weight": ("mlp.w_down", "transpose"),
}


def load_llama(state: Params, config_dict: ConfigDict) -> tuple[model.Config, dict[str, Array]]:
    """Turn a whole model's state dict into a configuration and parameters.

    Parameters
    ----------
    state : mapping of str to array
        model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, …, all of one dtype. A tied head may be there
        as lm_head.weight if it is equal to the embedding.
    config_dict : mapping
        The model's config.json, with the fields of
        :func:`gta_ref.weights.llama_deepseek.load_llama_attention` and vocab_size, num_hidden_layers,
        intermediate_size, rms_norm_eps, tie_word_embeddings (default: whether lm_head.weight is missing).

    Returns
    -------
    config : gta_ref.lm.model.Config
    params : dict of str to array
        Copies, in the state's dtype. Gradients are converted in the same way.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or of another dtype; the message names every such tensor.
        Or if a field is missing, or may change the result and is not applied; the message names the field.
    """
    config = config_json.llama_model(config_dict, tied=_HEAD not in state)
    if config.n_layers > len(state):
        raise ValueError(f"Llama state: num_hidden_layers={config.n_layers} does not fit {len(state)} tensors")
    state = {name: x for name, x in state.items() if not name.endswith("rotary_emb.inv_freq")}  # from config_dict
    if config.tied and _HEAD in state:
        head, embed = state.pop(_HEAD), state.get(_EMBED)
        if embed is not None and not np.array_equal(head, embed):
            raise ValueError(f"Llama state: {_HEAD} differs from {_EMBED}; tie_word_embeddings is true")
    return config, from_state("Llama state", state, _names(config), model.param_shapes(config))


def save_llama(params: Params, config: model.Config) -> dict[str, Array]:
    """The inverse of :func:`load_llama`: parameters, or gradients, under Llama's names and layouts.

    Raises
    ------
    ValueError
        If Llama has no such model: one with another mechanism than GQA, with layers of different sizes, with a gate, or
        with another RoPE pairing than "half".
    """
    attention = config.attention
    if isinstance(attention, tuple):
        raise ValueError("config.attention differs from layer to layer; expected one for all, as in Llama's form")
    if not isinstance(attention, gqa.Config):
        found = type(attention)
        raise ValueError(f"config.attention is a {found.__module__}.{found.__name__}; expected GQA's Config")
    for field, only in (("gate", "none"), ("rope_pairing", "half")):
        if getattr(attention, field) != only:
            raise ValueError(f"{field}={getattr(attention, field)!r} must be {only!r} in Llama's form")
    return to_state(params, _names(config), model.param_shapes(config))


def _names(config: model.Config) -> Names:
    block = _BLOCK | {
        f"self_attn.{theirs}": (f"attention.{ours}", how)
        for theirs, (ours, how) in llama_names(config.attention).items()
    }
    names = {_EMBED: ("embed", "same")}
    for i in range(config.n_layers):
        names |= {f"model.layers.{i}.{theirs}": (f"layers.{i}.{ours}", how) for theirs, (ours, how) in block.items()}
    names["model.norm.weight"] = ("norm", "same")
    if not config.tied:
        names[_HEAD] = ("head", "transpose")
    return names
