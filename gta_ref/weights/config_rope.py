"""What a configuration says about RoPE: base, part of the head, and the scaling for long contexts.

Older files have rope_theta, partial_rotary_factor and a mapping rope_scaling; newer ones have all of it in one mapping,
rope_parameters. The kinds of scaling that are applied are those of :mod:`gta_ref.ops.rope_scaling`; every other kind
("dynamic", "longrope", …), whose frequencies depend on the length of the text, and every key that its kind does not
have, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gta_ref.errors import as_positive_float, as_size, check_bool, shown
from gta_ref.ops import rope_scaling
from gta_ref.weights.config_fields import Fields

# kind → the keys that it must have, and those that it may have
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
    "yarn": (
        ("factor",),
        (
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
}
_WIDEST = 2**20  # of a head, so that a wrong size does not ask for all memory
_EVERY_KIND = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


class Rope(NamedTuple):
    """RoPE as the mechanisms' configurations have it.

    Attributes
    ----------
    theta : float
    frequencies : tuple of float, or None for the plain ones
    magnitude : float
        Factor on cos and sin.
    on_scores : float
        Factor on 1/√d that DeepSeek's code takes from mscale_all_dim, and no other code.
    """

    theta: float
    frequencies: tuple[float, ...] | None
    magnitude: float
    on_scores: float


def read_rope(fields: Fields, name: str, width: int, partial: float | None) -> Rope:
    """Read RoPE's fields.

    Parameters
    ----------
    fields : Fields
    name : str
        The field with the width of the heads, or of their part with RoPE, for error messages.
    width : int
    partial : float or None
        The part of a head that RoPE turns if the configuration does not say it; None if the model's code always turns
        whole heads, whatever partial_rotary_factor says.

    Raises
    ------
    ValueError
        If a field is missing, unknown, contradicts another, or asks for what is not applied here.
    """
    if width > _WIDEST:
        raise ValueError(f"{fields.what}: {name}={width} must be at most {_WIDEST}")
    scaling = _scaling(fields)
    kind = scaling.get("rope_type", "default")
    theta = as_positive_float("rope_theta", _one(fields, scaling, "rope_theta", 10000.0))
    part = as_positive_float("partial_rotary_factor", _one(fields, scaling, "partial_rotary_factor", partial or 1.0))
    if partial is None and part != 1.0:
        raise ValueError(f"{fields.what}: partial_rotary_factor={part!r} must be 1: this model's code does not read it")
    turned = int(width * part)  # rounded down, as in transformers
    if part == 1.0 and width % 2:
        raise ValueError(f"{fields.what}: {name}={width} must be even: RoPE turns pairs of features")
    if part > 1 or turned < 2 or turned % 2:
        raise ValueError(
            f"{fields.what}: partial_rotary_factor={part!r} of {name}={width} gives {turned} features; expected "
            f"an even number from 2 to {width}"
        )
    frequencies, magnitude, on_scores = _KINDS[kind](fields, scaling, turned, theta)
    if kind == "default" and turned == width:
        return Rope(theta, None, magnitude, on_scores)
    return Rope(theta, tuple(map(float, frequencies)), magnitude, on_scores)


def _scaling(fields: Fields) -> dict[str, Any]:
    """The one mapping about RoPE that is given, with its kind as rope_type; {} if there is none."""
    given = {name: fields.get(name) for name in ("rope_scaling", "rope_parameters") if fields.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{fields.what}: {name}={shown(value)} must be null or a mapping")
    found = [_with_kind(fields, name, value) for name, value in given.items()]
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError(f"{fields.what}: rope_scaling and rope_parameters differ; expected one of them")
    return found[0] if found else {}


def _with_kind(fields: Fields, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    scaling = {str(key): entry for key, entry in value.items() if entry is not None}
    kinds = [scaling.pop(key) for key in ("rope_type", "type") if key in scaling] or ["default"]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _KEYS or kind != kinds[0]:
            raise ValueError(
                f"{fields.what}: {name} has rope_type={shown(kind)}; expected one of {', '.join(map(repr, _KEYS))}"
            )
    needed, possible = _KEYS[kinds[0]]
    unknown = [key for key in scaling if key not in (*needed, *possible, *_EVERY_KIND)]
    missing = [key for key in needed if key not in scaling]
    if unknown or missing:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise ValueError(
            f"{fields.what}: {name} of the kind {kinds[0]!r}: {'; '.join(parts)}; expected "
            f"{', '.join((*needed, *possible)) or 'no other key'}"
        )
    return {**scaling, "rope_type": kinds[0]}


def _one(fields: Fields, scaling: Mapping[str, Any], name: str, default: Any) -> Any:
    """A value that stands in the mapping, beside it, or in both places alike."""
    beside = fields.get(name)
    if beside is not None and name in scaling and scaling[name] != beside:
        raise ValueError(
            f"{fields.what}: {name}={shown(beside)} must be {shown(scaling[name])}, as in the mapping about RoPE"
        )
    return scaling.get(name, default if beside is None else beside)


def _original(fields: Fields, scaling: Mapping[str, Any]) -> int:
    """Context length of the original training; without a field for it, that of the model."""
    name = "original_max_position_embeddings"
    value = _one(fields, scaling, name, fields.get("max_position_embeddings"))
    if value is None:
        raise ValueError(f"{fields.what}: missing {name}; expected it with rope_type={scaling['rope_type']!r}")
    return as_size(name, value)


Scaled = tuple[np.ndarray, float, float]  # frequencies, magnitude, factor on the scores


def _default(fields: Fields, scaling: Mapping[str, Any], d: int, theta: float) -> Scaled:
    return rope_scaling.plain_frequencies(d, theta), 1.0, 1.0


def _linear(fields: Fields, scaling: Mapping[str, Any], d: int, theta: float) -> Scaled:
    return rope_scaling.linear_frequencies(d, theta, as_positive_float("factor", scaling["factor"])), 1.0, 1.0


def _llama3(fields: Fields, scaling: Mapping[str, Any], d: int, theta: float) -> Scaled:
    factor, low, high = (
        as_positive_float(key, scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if high <= low:
        raise ValueError(f"{fields.what}: high_freq_factor={high!r} must be above low_freq_factor={low!r}")
    return rope_scaling.llama3_frequencies(d, theta, factor, low, high, _original(fields, scaling)), 1.0, 1.0


def _yarn(fields: Fields, scaling: Mapping[str, Any], d: int, theta: float) -> Scaled:
    factor = as_positive_float("factor", scaling["factor"])
    fast = as_positive_float("beta_fast", scaling.get("beta_fast", 32.0))
    slow = as_positive_float("beta_slow", scaling.get("beta_slow", 1.0))
    if fast < slow:
        raise ValueError(f"{fields.what}: beta_fast={fast!r} must be at least beta_slow={slow!r}")
    if theta <= 1:
        raise ValueError(f"{fields.what}: rope_theta={theta!r} must be above 1 with rope_type='yarn'")
    truncate = scaling.get("truncate", True)
    check_bool("truncate", truncate)
    frequencies = rope_scaling.yarn_frequencies(d, theta, factor, _original(fields, scaling), fast, slow, truncate)
    magnitude, on_scores = rope_scaling.yarn_magnitude(factor), 1.0
    weights = [scaling.get(key) for key in ("mscale", "mscale_all_dim")]
    if (weights[0] is None) != (weights[1] is None):  # of one alone, transformers and DeepSeek's own code differ
        raise ValueError(f"{fields.what}: mscale and mscale_all_dim must both be there, or neither")
    if weights[0] is not None:
        on_turned, on_all = (
            rope_scaling.yarn_magnitude(factor, as_positive_float(key, weight))
            for key, weight in zip(("mscale", "mscale_all_dim"), weights, strict=True)
        )
        magnitude, on_scores = on_turned / on_all, on_all**2
    if "attention_factor" in scaling:
        magnitude = as_positive_float("attention_factor", scaling["attention_factor"])
    return frequencies, magnitude, on_scores


_KINDS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
