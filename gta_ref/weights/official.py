"""Weights of the authors' models (plm-team/GTA): their names and layouts converted to ours, and back.

Their linear layers hold (out, in) and multiply from the left; our matrices are the transpose. Their ``v_proj`` computes
the latent C. The memory of their ``v_b_proj.weight`` (e·d_l, n_q·d_l) is reinterpreted, row by row, as the decoders
(n_q, d_l, e·d_l). This is *not* a transpose; reading it as one gives plausible but wrong numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from gta_ref.errors import check_divides
from gta_ref.files import parse_json, read_tensors
from gta_ref.lm import model
from gta_ref.mechanisms import gta
from gta_ref.ops import Array
from gta_ref.weights.config_fields import Fields
from gta_ref.weights.layouts import from_state, to_state

# official name → (our name, how the memory is converted)
_LAYER = {
    "q_proj.weight": ("w_q", "transpose"),
    "q_proj.bias": ("b_q", "same"),
    "k_proj.weight": ("w_k", "transpose"),
    "k_proj.bias": ("b_k", "same"),
    "v_proj.weight": ("w_c", "transpose"),
    "v_proj.bias": ("b_c", "same"),
    "g_proj.weight": ("w_g", "transpose"),
    "g_proj.bias": ("b_g", "same"),
    "v_b_proj.weight": ("w_p", "reinterpret"),
    "o_proj.weight": ("w_o", "transpose"),
}
_BLOCK = {
    "input_layernorm.weight": ("norm_1", "same"),
    **{f"self_attn.{official}": (f"attention.{ours}", how) for official, (ours, how) in _LAYER.items()},
    "post_attention_layernorm.weight": ("norm_2", "same"),
    "mlp.gate_proj.weight": ("mlp.w_gate", "transpose"),
    "mlp.up_proj.weight": ("mlp.w_up", "transpose"),
    "mlp.down_proj.weight": ("mlp.w_down", "transpose"),
}
# fields about other parts of a model, which do not concern one attention layer
_AROUND = (
    *("vocab_size", "num_hidden_layers", "intermediate_size", "hidden_act", "mlp_bias"),
    *("rms_norm_eps", "tie_word_embeddings"),
)


def load_official(
    state: Mapping[str, Array], config_dict: Mapping[str, Any]
) -> tuple[gta.Config | model.Config, dict[str, Array]]:
    """Turn a state dict of the authors' code into a configuration and parameters.

    Parameters
    ----------
    state : mapping of str to array
        Tensors of one attention layer (``q_proj.weight``, …) or of a whole model (``model.embed_tokens.weight``, …), as
        :func:`read_state` returns them. All of one dtype.
    config_dict : mapping
        Their config.json.

    Returns
    -------
    config : gta.Config for a layer, model.Config for a model
    params : dict of str to array
        Copies, in the state's dtype. Gradients are converted in the same way.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or of another dtype; the message names every such tensor.
    """
    is_model = any(name.startswith(("model.", "lm_head.")) for name in state)
    config = model_config(config_dict) if is_model else layer_config(config_dict)
    if isinstance(config, model.Config) and config.n_layers > len(state):
        raise ValueError(f"official state: num_hidden_layers={config.n_layers} does not fit {len(state)} tensors")
    state = {name: x for name, x in state.items() if not name.endswith("rotary_emb.inv_freq")}  # derived from θ
    if isinstance(config, model.Config) and config.tied and "lm_head.weight" in state:
        head, embed = state.pop("lm_head.weight"), state.get("model.embed_tokens.weight")
        if embed is not None and not np.array_equal(head, embed):
            raise ValueError("lm_head.weight differs from model.embed_tokens.weight; tie_word_embeddings is true")
    return config, from_state("official state", state, _names(config), _shapes(config))


def save_official(params: Mapping[str, Array], config: gta.Config | model.Config) -> dict[str, Array]:
    """The inverse of :func:`load_official`: parameters, or gradients, under the authors' names and layouts.

    Raises
    ------
    ValueError
        If the released code has no such layer: one without biases, with another gate than sigmoid, with another RoPE
        pairing than "half", or without the decoder's residual; or if the layers differ in size.
    """
    attention = config.attention if isinstance(config, model.Config) else config
    if isinstance(attention, tuple):
        raise ValueError("config.attention differs from layer to layer; expected one for all, as in the released code")
    if not isinstance(attention, gta.Config):
        raise ValueError(f"config is a {type(attention).__module__}.{type(attention).__name__}; expected GTA's Config")
    for field, only in (("decoder_residual", True), ("bias", True), ("gate", "sigmoid"), ("rope_pairing", "half")):
        if getattr(attention, field) != only:
            raise ValueError(f"{field}={getattr(attention, field)!r} must be {only!r} in the released code's form")
    return to_state(params, _names(config), _shapes(config))


def layer_config(config: Mapping[str, Any]) -> gta.Config:
    """Read the attention's sizes from the authors' configuration (plm-team/GTA, its config.json).

    Parameters
    ----------
    config : mapping
        Has the authors' field names: num_query_heads is n_q, num_key_heads n_k, num_value_heads n_c, value_dim d_l. As
        in their code, the layer has biases whatever `attention_bias` says.

    Raises
    ------
    ValueError
        If a field is missing, unknown, or asks for something that the released attention cannot do.
    """
    fields = Fields("official config", config)
    layer = _layer_config(fields)
    fields.ignore(*_AROUND)
    fields.finish()
    return layer


def model_config(config_dict: Mapping[str, Any]) -> model.Config:
    """Read a whole model's sizes from the authors' configuration.

    Raises
    ------
    ValueError
        If a field is missing, unknown, or asks for something that the released model cannot do.
    """
    fields = Fields("official config", config_dict)
    fields.need("vocab_size", "num_hidden_layers", "intermediate_size")
    fields.only("hidden_act", "silu")
    fields.only("mlp_bias", False)
    config = model.Config(
        fields.get("vocab_size"),
        fields.get("num_hidden_layers"),
        fields.get("intermediate_size"),
        _layer_config(fields),
        norm_eps=fields.get("rms_norm_eps", 1e-5),
        tied=fields.get("tie_word_embeddings", True),
    )
    fields.finish()
    return config


def _layer_config(fields: Fields) -> gta.Config:
    fields.need(
        "hidden_size", "num_attention_heads", "num_query_heads", "num_key_heads", "num_value_heads", "value_dim"
    )
    hidden_size, n_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.get("head_dim")
    if head_dim is None:
        check_divides("num_attention_heads", n_heads, "hidden_size", hidden_size)
        head_dim = hidden_size // n_heads
    for name in ("query_dim", "key_dim"):
        if fields.get(name, head_dim) != head_dim:
            raise ValueError(f"{fields.what}: {name}={fields.get(name)} must equal head_dim={head_dim}")
    fields.only("rope_scaling")
    fields.ignore("attention_bias")  # their code does not read it
    return gta.Config(
        hidden_size,
        n_heads,
        head_dim,
        fields.get("num_query_heads"),
        fields.get("num_key_heads"),
        fields.get("num_value_heads"),
        fields.get("value_dim"),
        rope_theta=fields.get("rope_theta", 10000.0),
        decoder_residual=True,
    )


def read_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint: one safetensors file, or a folder with one or several shards.

    Parameters
    ----------
    path : str or path
        In a folder, ``model.safetensors.index.json`` lists the shards that belong to the checkpoint; if there is no
        such file, every ``*.safetensors`` does. A shard that the index lists must be in the folder or below it. It may
        be a link to a file elsewhere, as in a download cache.

    Raises
    ------
    FileNotFoundError
        If the file, the folder or a shard does not exist.
    ValueError
        If a file is damaged, a tensor is in two shards, a tensor that the index lists is in none, or the index lists a
        shard outside the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return read_tensors(path)[0]
    index_path = path / "model.safetensors.index.json"
    index: dict[str, str] | None = None
    if index_path.is_file():
        try:
            index = parse_json(index_path.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(index.values()))
            shards = [path / name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{index_path}: not JSON with a weight_map") from None
        for name in names:
            if _leaves(name):
                raise ValueError(f"{index_path}: the shard {name!r} must be in the folder of the index")
    else:
        shards = sorted(path.glob("[!.]*.safetensors"))  # no hidden files, such as a killed program leaves
    if not shards:
        raise FileNotFoundError(f"{path}: no *.safetensors there")
    state: dict[str, np.ndarray] = {}
    for shard in shards:
        tensors, _ = read_tensors(shard)
        twice = sorted(state.keys() & tensors.keys())
        if twice:
            raise ValueError(f"{shard}: {', '.join(twice)} are in another shard too")
        state |= tensors
    if index is not None and index.keys() - state.keys():
        raise ValueError(f"{path}: the shards lack {', '.join(sorted(index.keys() - state.keys()))}")
    return state


def _leaves(name: str) -> bool:
    """Whether a path may lead out of the folder that it is relative to, on any operating system."""
    return any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


def _names(config: gta.Config | model.Config) -> dict[str, tuple[str, str]]:
    """Official name → (our name, how the memory is converted)."""
    if isinstance(config, gta.Config):
        return _LAYER
    names = {"model.embed_tokens.weight": ("embed", "same")}
    for i in range(config.n_layers):
        names |= {
            f"model.layers.{i}.{official}": (f"layers.{i}.{ours}", how) for official, (ours, how) in _BLOCK.items()
        }
    names["model.norm.weight"] = ("norm", "same")
    if not config.tied:
        names["lm_head.weight"] = ("head", "transpose")
    return names


def _shapes(config: gta.Config | model.Config) -> dict[str, tuple[int, ...]]:
    return gta.param_shapes(config) if isinstance(config, gta.Config) else model.param_shapes(config)
