"""Small models, one of each mechanism, with as many parameters: what the laboratory compares.

Heads, maps and latent widths stand to each other as in GTA-1B and GQA-1B: 4 output heads share a map (GTA, GVA) or a
key (GQA), one key head and one latent head of twice the head's width. MLA caches as much as GTA. The MLP takes up
what the attention saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from gta_ref import mechanisms
from gta_ref.errors import check_choice, check_divides
from gta_ref.lm import model

Sizes = dict[str, Any]

_ATTENTION: dict[str, tuple[str, Callable[[int, int], Sizes]]] = {
    "mha": ("mha", lambda n, d: {"n_heads": n, "head_dim": d}),
    "mqa": ("gqa", lambda n, d: {"n_heads": n, "head_dim": d, "n_k": 1}),
    "gqa": ("gqa", lambda n, d: {"n_heads": n, "head_dim": d, "n_k": n // 4}),
    "mla": (
        "mla",
        lambda n, d: {"n_heads": n, "nope_dim": d, "value_dim": d, "rope_dim": d // 2, "latent_dim": 5 * d // 2},
    ),
    "gva": ("gva", lambda n, d: {"n_heads": n, "head_dim": d, "n_q": n // 4}),
    "gha": ("gha", lambda n, d: {"n_heads": n, "head_dim": d, "n_q": n // 4, "n_k": 1, "n_v": 4}),
    "gta": (
        "gta",
        lambda n, d: {
            "n_heads": n,
            "head_dim": d,
            "n_q": n // 4,
            "n_k": 1,
            "n_c": 1,
            "latent_dim": 2 * d,
            "decoder_residual": True,
        },
    ),
}
NAMES = tuple(_ATTENTION)


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
    """A small model whose parameters are as many as those of MHA at these sizes, to within half a row of the MLPs.

    Parameters
    ----------
    name : {"mha", "mqa", "gqa", "mla", "gva", "gha", "gta"}
    vocab_size, hidden_size, n_heads, n_layers : int
        n_heads divides hidden_size and is a multiple of 4.
    intermediate_size : int, optional
        Of MHA's MLP; the others' follows. Default: 8/3 of hidden_size, rounded up to a multiple of 8.
    **attention
        Fields of the mechanism's Config that differ, such as gate="none".
    """
    check_choice("mechanism", name, NAMES)
    check_divides("n_heads", n_heads, "hidden_size", hidden_size)
    if n_heads % 4:
        raise ValueError(f"n_heads={n_heads} must be a multiple of 4")
    if intermediate_size is None:
        intermediate_size = -(-8 * hidden_size // 3 // 8) * 8
    sizes: Sizes = {"vocab_size": vocab_size, "n_layers": n_layers, "intermediate_size": intermediate_size}
    like = model.Config(**sizes, mechanism="mha", attention=_attention("mha", hidden_size, n_heads, {}))
    mechanism, _ = _ATTENTION[name]
    found = model.Config(**sizes, mechanism=mechanism, attention=_attention(name, hidden_size, n_heads, attention))
    row = 3 * hidden_size * n_layers  # parameters that one more feature inside the MLPs adds
    more = round((n_parameters(like) - n_parameters(found)) / row)
    return replace(found, intermediate_size=found.intermediate_size + more)


def n_parameters(config: model.Config) -> int:
    """Elements of all parameters."""
    return sum(prod(shape) for shape in model.param_shapes(config).values())


def _attention(name: str, hidden_size: int, n_heads: int, fields: Sizes) -> Any:
    mechanism, sizes = _ATTENTION[name]
    chosen = {"hidden_size": hidden_size, "bias": False, **sizes(n_heads, hidden_size // n_heads), **fields}
    return mechanisms.load(mechanism).Config(**chosen)
