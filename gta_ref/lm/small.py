"""Small models, one per mechanism, all with the same number of parameters: what the laboratory compares.

Each mechanism's sizes are in the proportions of its published models (``small_sizes`` in its module). The width of the
MLP makes up for the parameters that an attention layer saves.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

from gta_ref import mechanisms
from gta_ref.errors import as_int, check_choice, check_divides
from gta_ref.lm import model
from gta_ref.ops.arrays import check_config

# name: the mechanism, and what differs from its small sizes
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"mqa": ("gqa", {"n_k": 1})}
_GTA, _MHA, *_OTHERS = mechanisms.NAMES
NAMES = (_MHA, *VARIANTS, *_OTHERS, _GTA)  # in the order of tables and figures


def config(
    name: str,
    *,
    vocab_size: int = 256,
    hidden_size: int = 128,
    n_heads: int = 8,
    n_layers: int = 4,
    intermediate_size: int | None = None,
    **attention: Any,
) -> model.Config:
    """A small model with as many parameters as MHA at these sizes, as nearly as a whole-numbered MLP width allows.

    Parameters
    ----------
    name : {"mha", "mqa", "gqa", "mla", "gva", "gha", "gta"}
    vocab_size, hidden_size, n_heads, n_layers : int
        n_heads divides hidden_size and is a multiple of 4. Defaults: 256, 128, 8 and 4.
    intermediate_size : int, optional
        Width inside MHA's MLP, from which that of the others follows. Default: 8/3 of hidden_size, rounded up to a
        multiple of 8.
    **attention
        Fields of the mechanism's Config that are to differ, such as gate="none".

    Raises
    ------
    ValueError
        If the name is unknown, or the sizes do not fit together.
    """
    check_choice("mechanism", name, NAMES)
    hidden_size = as_int("hidden_size", hidden_size, at_least=1)
    n_heads = as_int("n_heads", n_heads, at_least=1)
    check_divides("n_heads", n_heads, "hidden_size", hidden_size)
    if n_heads % 4:
        raise ValueError(f"n_heads={n_heads} must be a multiple of 4")
    if intermediate_size is None:
        intermediate_size = -(-8 * hidden_size // 3 // 8) * 8
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "n_layers": n_layers, "intermediate_size": intermediate_size}
    like = model.Config(**sizes, mechanism="mha", attention=_attention("mha", hidden_size, n_heads, {}))
    mechanism, _ = VARIANTS.get(name, (name, {}))
    found = model.Config(**sizes, mechanism=mechanism, attention=_attention(name, hidden_size, n_heads, attention))
    row = 3 * hidden_size * n_layers  # parameters that one more feature inside the MLPs adds
    more = round(Fraction(n_parameters(like) - n_parameters(found), row))
    return replace(found, intermediate_size=found.intermediate_size + more)


def n_parameters(config: model.Config) -> int:
    """Number of elements of all parameters."""
    check_config(config, model.Config)
    if isinstance(config.attention, tuple):
        return sum(prod(shape) for shape in model.param_shapes(config).values())
    # from models of one and of two layers: the number of layers may be too large for a list of all shapes
    one, two = (sum(prod(shape) for shape in model.param_shapes(replace(config, n_layers=n)).values()) for n in (1, 2))
    return one + (config.n_layers - 1) * (two - one)


def _attention(name: str, hidden_size: int, n_heads: int, options: dict[str, Any]) -> Any:
    mechanism, variant = VARIANTS.get(name, (name, {}))
    module = mechanisms.load(mechanism)
    sizes = {**module.small_sizes(n_heads, hidden_size // n_heads), **variant, **options}
    return module.Config(**{"hidden_size": hidden_size, "bias": False, **sizes})
