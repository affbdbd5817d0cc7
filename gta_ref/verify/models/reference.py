"""The model to compare with: a checkpoint as a configuration and parameters under this library's names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gta_ref.errors import check_choice
from gta_ref.files import read_json, read_tensors
from gta_ref.lm import block, model, model_files, run_files
from gta_ref.lm.language_model import Bytes, Tokenizer
from gta_ref.lm.text import VOCABULARY
from gta_ref.ops import Array
from gta_ref.weights import fp8, pretrained
from gta_ref.weights.config_fields import Fields
from gta_ref.weights.config_json import DEEPSEEK_TYPES
from gta_ref.weights.layouts import from_state
from gta_ref.weights.llama import load_llama
from gta_ref.weights.llama_deepseek import load_deepseek_attention
from gta_ref.weights.load import converted
from gta_ref.weights.official import load_official, read_state

_DENSE = ("gate", "up", "down")  # DeepSeek's mlp.gate_proj, …, in a block without experts


@dataclass(frozen=True)
class Reference:
    """A checkpoint that is ready to be computed with.

    Attributes
    ----------
    name : str
    config : gta_ref.lm.model.Config
    params : mapping of str to array
        Named as in :func:`gta_ref.lm.model.param_shapes`, in the checkpoint's dtype. A block without ``mlp.…`` has a
        feed-forward layer that this library does not compute (DeepSeek's experts).
    tokenizer : Tokenizer or None
        If the file has one.
    """

    name: str
    config: model.Config
    params: Mapping[str, Array] = field(repr=False)
    tokenizer: Tokenizer | None = None

    def block(self, i: int) -> dict[str, Array]:
        """The parameters of block i, named as in :mod:`gta_ref.lm.block`."""
        return block.select(self.params, f"layers.{i}.")

    def is_whole(self, i: int) -> bool:
        """Whether block i can be computed up to its output."""
        return f"layers.{i}.mlp.w_down" in self.params


def load_reference(which: str | os.PathLike[str]) -> Reference:
    """Read a checkpoint.

    Parameters
    ----------
    which : str or path
        "smollm2"; a GGUF file; a .safetensors file of gta-ref train or gta-ref convert; or a folder with config.json
        and safetensors files, or one such file beside its config.json: Llama's form, the authors' GTA, DeepSeek-V2 and
        V3.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or a field of its configuration is not applied here; the message names the field.
    """
    path = Path(which)
    if path.suffix == ".gguf" or str(which) in pretrained.MODELS:
        found = pretrained.load(path=path) if path.suffix == ".gguf" else pretrained.load(str(which))
        return Reference(found.name, found.config, found.params, found.tokenizer)
    if not path.exists():
        names = ", ".join(pretrained.MODELS)
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint's file or folder, or {names}")
    tensors, metadata = read_tensors(path) if path.is_file() else ({}, {})
    if metadata.get("format") == model_files.FORMAT:
        found = converted(path, tensors, metadata)
        return Reference(found.name, found.config, found.params, found.tokenizer)
    if metadata.get("format") == run_files.FORMAT:
        run = run_files.parse(path, tensors, metadata)
        tokenizer = Bytes() if run.config.vocab_size == VOCABULARY else None
        return Reference(path.stem, run.config, run.state.params, tokenizer)
    config_dict = read_json((path if path.is_dir() else path.parent) / "config.json")
    return from_hugging_face(path.stem, read_state(path), config_dict)


def from_hugging_face(name: str, state: Mapping[str, Array], config_dict: Any) -> Reference:
    """Turn a state dict and its config.json into a reference.

    Raises
    ------
    ValueError
        If they are not those of a whole model that is computed here.
    """
    if not isinstance(config_dict, Mapping):
        raise ValueError(f"{name}: config.json holds no object")
    if "num_query_heads" in config_dict:  # the authors' GTA
        config, params = load_official(state, config_dict)
        if not isinstance(config, model.Config):
            raise ValueError(f"{name}: one attention layer; expected a whole model, with model.embed_tokens.weight")
        return Reference(name, config, params)
    if config_dict.get("model_type") in DEEPSEEK_TYPES:
        return Reference(name, *_deepseek(state, config_dict))
    return Reference(name, *load_llama(state, config_dict))


def _deepseek(state: Mapping[str, Array], config_dict: Mapping[str, Any]) -> tuple[model.Config, dict[str, Array]]:
    """All of a DeepSeek model but its experts."""
    fields = Fields("DeepSeek config", config_dict)
    check_choice("hidden_act", fields.get("hidden_act", "silu"), ("silu",))
    n_layers, hidden_size = fields.size("num_hidden_layers"), fields.size("hidden_size")
    width, vocab_size = fields.size("intermediate_size"), fields.size("vocab_size")
    params: dict[str, Array] = {}

    def take(foreign: Mapping[str, tuple[str, str]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        names = {n: x for n, x in state.items() if n.removesuffix("_scale_inv") in foreign}
        return from_state("DeepSeek state", fp8.dequantised("DeepSeek state", names, config_dict), foreign, shapes)

    attention = None
    params |= take({"model.embed_tokens.weight": ("embed", "same")}, {"embed": (vocab_size, hidden_size)})
    for i in range(n_layers):
        theirs, ours = f"model.layers.{i}.", f"layers.{i}."
        attention, layer = load_deepseek_attention(block.select(state, f"{theirs}self_attn."), config_dict)
        params |= {f"{ours}attention.{key}": x for key, x in layer.items()}
        for foreign, key in (("input_layernorm", "norm_1"), ("post_attention_layernorm", "norm_2")):
            params |= take({f"{theirs}{foreign}.weight": (f"{ours}{key}", "same")}, {f"{ours}{key}": (hidden_size,)})
        if f"{theirs}mlp.gate_proj.weight" in state:
            names = {f"{theirs}mlp.{part}_proj.weight": (f"{ours}mlp.w_{part}", "transpose") for part in _DENSE}
            shapes = {f"{ours}mlp.w_{part}": (hidden_size, width) for part in _DENSE}
            params |= take(names, {**shapes, f"{ours}mlp.w_down": (width, hidden_size)})
    params |= take({"model.norm.weight": ("norm", "same")}, {"norm": (hidden_size,)})
    tied = fields.truth("tie_word_embeddings", False)
    if not tied:
        params |= take({"lm_head.weight": ("head", "transpose")}, {"head": (hidden_size, vocab_size)})
    eps = fields.number("rms_norm_eps", 1e-6)
    return model.Config(vocab_size, n_layers, width, attention, "mla", norm_eps=eps, tied=tied), params
