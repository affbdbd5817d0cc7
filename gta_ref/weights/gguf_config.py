"""The metadata of a GGUF file of Llama's architecture as a configuration; no field of it is overlooked.

What llama.cpp does with a field is done here, or the field is refused by its name. RoPE's frequencies are

    f_t = θ_base^(−2t/d_h) / c_t / s

with c_t from the tensor rope_freqs.weight, which Llama 3.1 and newer have, and s from rope.scaling.factor or its older
name rope.scale_linear. With the scaling "yarn", they are those of :func:`gta_ref.ops.rope_scaling.yarn_frequencies`,
and queries and keys are multiplied by attn_factor · (1 + 0.1 ln s).

A file of this architecture stores the rows of the query and key projections in an order in which the two members of a
RoPE pair are neighbours, whatever the order was in training: rope_pairing is "interleaved".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.errors import as_positive_float, as_size, check_choice, shown
from gta_ref.lm import model
from gta_ref.mechanisms import gqa
from gta_ref.ops import rope_scaling
from gta_ref.weights.gguf import GGUF, dequantise

_PREFIX = "llama."
FREQUENCIES = "rope_freqs.weight"  # the tensor with c_t
# fields that are read below, or that change nothing that is computed
_KNOWN = frozenset(
    _PREFIX + name
    for name in (
        *("embedding_length", "block_count", "context_length", "feed_forward_length", "vocab_size"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *("attention.layer_norm_rms_epsilon", "attention.scale"),
        *("rope.freq_base", "rope.dimension_count", "rope.scale_linear"),
        *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
        *("rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
    )
)
# fields that llama.cpp may have and this library computes for one value only
_ONLY: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "tensor_data_layout": ("Meta AI original pth",),  # RoPE's pairs as neighbours; written by older programs
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


def config_of(file: GGUF) -> tuple[model.Config, int]:
    """Read the sizes and the context length from the file's metadata.

    Raises
    ------
    ValueError
        If the file is of another architecture, or has a field that may change the result and is not applied.
    """
    check_choice("general.architecture", file.field("general.architecture", str), ("llama",))
    check_choice("general.type", file.field("general.type", str, "model"), ("model",))
    _check_fields(file)
    hidden_size = file.field("llama.embedding_length", int)
    n_heads = as_size("llama.attention.head_count", file.field("llama.attention.head_count", int))
    head_dim = file.field("llama.attention.key_length", int, hidden_size // n_heads)
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if file.field(name, int, head_dim) != head_dim:
            raise ValueError(f"{name}={file.fields[name]} must be the width of a head, {head_dim}")
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even: RoPE turns pairs of features")
    theta = file.field("llama.rope.freq_base", float, 10000.0)
    frequencies, magnitude = _rope(file, head_dim, theta)
    scale = file.field("llama.attention.scale", float, 0.0)
    attention = gqa.Config(
        hidden_size,
        n_heads,
        head_dim,
        file.field("llama.attention.head_count_kv", int, n_heads),
        rope_theta=theta,
        rope_pairing="interleaved",
        rope_frequencies=frequencies,
        rope_magnitude=magnitude,
        score_scale=scale or None,  # 0: not set, as in llama.cpp
        bias=_has_bias(file, "blk.0.attn_q.bias"),
        output_bias=_has_bias(file, "blk.0.attn_output.bias"),
    )
    embed = file.tensors.get("token_embd.weight")
    n_layers = file.field("llama.block_count", int)
    if n_layers > len(file.tensors):
        raise ValueError(f"llama.block_count={n_layers} does not fit {len(file.tensors)} tensors")
    config = model.Config(
        vocab_size=embed.shape[0] if embed else file.field("llama.vocab_size", int),
        n_layers=n_layers,
        intermediate_size=file.field("llama.feed_forward_length", int),
        attention=attention,
        mechanism="gqa",
        norm_eps=file.field("llama.attention.layer_norm_rms_epsilon", float),
        tied="output.weight" not in file.tensors,
    )
    return config, file.field("llama.context_length", int)


def _check_fields(file: GGUF) -> None:
    """Raise ValueError if a field of the model is not known, or has a value that is not computed here."""
    unknown = []
    for name, value in file.fields.items():
        if not name.startswith(_PREFIX) or name in _KNOWN:
            continue
        allowed = _ONLY.get(name.removeprefix(_PREFIX))
        if allowed is None:
            unknown.append(f"{name}={shown(value)}")
        elif not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"{name}={shown(value)} must be {' or '.join(map(repr, allowed))}")
    if unknown:
        raise ValueError(
            f"unknown {', '.join(unknown)}; expected no field that may change the result and that is not applied here"
        )


def _has_bias(file: GGUF, name: str) -> bool:
    """Whether the projections have biases; that all layers and all of q, k, v have them is checked with the tensors."""
    return name in file.tensors


def _rope(file: GGUF, head_dim: int, theta: float) -> tuple[tuple[float, ...] | None, float]:
    """RoPE's frequencies, None for the plain ones, and the factor on cos and sin."""
    kind = file.field("llama.rope.scaling.type", str, "linear")  # llama.cpp's default: then the factor decides
    check_choice("llama.rope.scaling.type", kind, ("none", "linear", "yarn"))
    older = file.field("llama.rope.scale_linear", float, 0.0)
    # 0: not set, as in llama.cpp; with the type "none", the factor has no effect there
    factor = 1.0 if kind == "none" else file.field("llama.rope.scaling.factor", float, older) or 1.0
    factor = as_positive_float("llama.rope.scaling.factor", factor)
    own = file.tensors.get(FREQUENCIES)
    magnitude = file.field("llama.rope.scaling.attn_factor", float, 1.0) or 1.0
    if kind != "yarn" and magnitude != 1.0:
        raise ValueError(f"llama.rope.scaling.attn_factor={magnitude!r} must be 1.0 without the scaling 'yarn'")
    if kind == "yarn":
        if own is not None:
            raise ValueError(f"{FREQUENCIES} is there; expected it to be missing with the scaling 'yarn'")
        frequencies = _yarn(file, head_dim, theta, factor)
        magnitude *= rope_scaling.yarn_magnitude(factor)
    elif factor == 1.0 and own is None:
        return None, 1.0
    else:
        frequencies = rope_scaling.linear_frequencies(head_dim, theta, factor)
    if own is not None:
        divisors = dequantise(own)
        if divisors.shape != frequencies.shape or not (divisors > 0).all():
            came = f"shape {divisors.shape}" if divisors.shape != frequencies.shape else "values that are not above 0"
            raise ValueError(f"{FREQUENCIES} has {came}; expected {frequencies.shape} numbers above 0")
        frequencies = frequencies / divisors.astype(np.float64)
    return tuple(map(float, frequencies)), magnitude


def _yarn(file: GGUF, head_dim: int, theta: float, factor: float) -> np.ndarray:
    name = "llama.rope.scaling."
    original = file.field(f"{name}original_context_length", int, file.field("llama.context_length", int))
    fast, slow = file.field(f"{name}yarn_beta_fast", float, 32.0), file.field(f"{name}yarn_beta_slow", float, 1.0)
    if original < 1 or not 0 < slow <= fast < float("inf") or not 1 < theta < float("inf"):
        raise ValueError(
            f"{name}original_context_length={original}, yarn_beta_fast={fast}, yarn_beta_slow={slow} and freq_base="
            f"{theta} must be above 0, with beta_fast at least beta_slow and freq_base above 1"
        )
    return rope_scaling.yarn_frequencies(head_dim, theta, factor, original, fast, slow)
