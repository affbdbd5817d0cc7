"""The names under which activations may come: this library's, those of hooks in transformers, and llama.cpp's.

Ours are ``embedding``, ``blocks.I.STAGE``, ``norm`` and ``logits``, where STAGE is one of
:mod:`gta_ref.verify.models.block`. A name of transformers is that of the module whose output it holds, such as
``model.layers.3.self_attn.q_proj``; with ``.input`` at its end, it holds the module's input. ``hidden_states.I`` is
what ``output_hidden_states=True`` returns: the input of block I; the last one has passed the final norm.

A foreign array may be several of our stages in one: side by side ("flat": a fused projection) or side by side within
every head ("heads": DeepSeek's q_b_proj and kv_b_proj).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import NamedTuple

IDS = ("ids", "input_ids")
POSITIONS = ("positions", "position_ids")
MASK = "attention_mask"


class Target(NamedTuple):
    """Our names for one foreign array, and how they lie in it."""

    stages: tuple[str, ...]
    how: str = "whole"


_BLOCK = {
    "": ("output",),
    "input": ("input",),
    "input_layernorm": ("norm_1",),
    "input_layernorm.input": ("input",),
    "self_attn": ("attention.out",),
    "self_attn.q_proj": ("attention.q_proj",),
    "self_attn.k_proj": ("attention.k_proj",),
    "self_attn.v_proj": ("attention.v", "attention.c"),  # the first that the mechanism has; C in GTA
    "self_attn.q_norm": ("attention.q_normed",),
    "self_attn.k_norm": ("attention.k_normed",),
    "self_attn.g_proj": ("attention.gate_proj",),
    "self_attn.o_proj": ("attention.out",),
    "self_attn.o_proj.input": ("attention.heads",),
    "self_attn.attn_weights": ("attention.map",),
    "self_attn.q_a_proj": ("attention.c_q_proj",),
    "self_attn.q_a_layernorm": ("attention.c_q",),
    "self_attn.kv_a_layernorm": ("attention.c",),
    "post_attention_layernorm": ("norm_2",),
    "post_attention_layernorm.input": ("residual",),
    "mlp": ("mlp.out",),
    "mlp.gate_proj": ("mlp.gate",),
    "mlp.up_proj": ("mlp.up",),
    "mlp.down_proj": ("mlp.out",),
    "mlp.down_proj.input": ("mlp.product",),
}
_JOINED = {
    "self_attn.qkv_proj": Target(("attention.q_proj", "attention.k_proj", "attention.v"), "flat"),
    "mlp.gate_up_proj": Target(("mlp.gate", "mlp.up"), "flat"),
    "self_attn.kv_a_proj_with_mqa": Target(("attention.c_proj", "attention.k_rope_proj"), "flat"),
    "self_attn.q_b_proj": Target(("attention.q_nope", "attention.q_rope_proj"), "heads"),
    "self_attn.kv_b_proj": Target(("attention.k_nope", "attention.v"), "heads"),
}
_MODEL = {
    "model.embed_tokens": "embedding",
    "embed_tokens": "embedding",
    "model.norm": "norm",
    "lm_head": "logits",
    "inp_embd": "embedding",
    "result_norm": "norm",
    "result_output": "logits",
}
# llama.cpp: NAME-I
_LLAMA_CPP = {
    "attn_norm": "norm_1",
    "ffn_inp": "residual",
    "ffn_norm": "norm_2",
    "ffn_gate": "mlp.gate",
    "ffn_up": "mlp.up",
    "ffn_out": "mlp.out",
    "l_out": "output",
}
# modules of transformers whose outputs are no stages here
_NO_STAGES = re.compile(r"(^|\.)(rotary_emb|act_fn|model|lm_head\.input|past_key_values.*)$")
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)(?:\.(.+))?")
_NUMBERED = re.compile(r"(hidden_states|attentions)\.(\d+)")


def target(name: str, known: Collection[str], n_layers: int) -> Target | None:
    """Our stages for a name; None if it is none of the known ones.

    Parameters
    ----------
    name : str
    known : collection of str
        All stages of the model, as ``blocks.0.norm_1``.
    n_layers : int
    """
    name = name.removesuffix(".output") if not name.startswith("blocks.") else name
    if name in known:
        return Target((name,))
    if name in _MODEL:
        return Target((_MODEL[name],))
    if name == "model.norm.input":
        return Target((f"blocks.{n_layers - 1}.output",))
    if found := _NUMBERED.fullmatch(name):
        kind, i = found[1], int(found[2])
        if kind == "hidden_states" and i == n_layers:
            return Target(("norm",))
        return _in_block(i, ("input",) if kind == "hidden_states" else ("attention.map",), known)
    if (found := re.fullmatch(r"(\w+)-(\d+)", name)) and found[1] in _LLAMA_CPP:
        return _in_block(int(found[2]), (_LLAMA_CPP[found[1]],), known)
    if found := _LAYER.fullmatch(name):
        i, inner = int(found[1]), found[2] or ""
        joined = _JOINED.get(inner)
        if inner == "self_attn.q_proj" and f"blocks.{i}.attention.q_nope" in known:  # MLA without a latent of queries
            joined = _JOINED["self_attn.q_b_proj"]
        if joined is not None:
            stages = tuple(s for one in joined.stages if (s := f"blocks.{i}.{one}") in known)
            return Target(stages, joined.how) if stages else None
        return _in_block(i, _BLOCK.get(inner, (inner,)), known)
    return None


def _in_block(i: int, stages: tuple[str, ...], known: Collection[str]) -> Target | None:
    return next((Target((name,)) for stage in stages if (name := f"blocks.{i}.{stage}") in known), None)


def is_no_stage(name: str) -> bool:
    """Whether a name is one of transformers' modules whose output is not compared."""
    return _NO_STAGES.search(name.removesuffix(".output")) is not None


def suggestion(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like an unknown one, in the same block if it has a number; None without one."""
    number = re.search(r"\d+", name)
    of_hooks = [f"model.layers.0.{inner}".rstrip(".") for inner in (*_BLOCK, *_JOINED)]
    all_names = [*(known if number is None else (n for n in known if n.startswith("blocks.0."))), *_MODEL, *of_hooks]
    if number is None:
        close = difflib.get_close_matches(name, [*all_names, *IDS, *POSITIONS], 1, 0.75)
        return close[0] if close else None
    plain = name[: number.start()] + "0" + name[number.end() :]
    close = difflib.get_close_matches(plain, [*all_names, "hidden_states.0"], 1, 0.75)
    return close[0].replace("0", number[0], 1) if close else None
