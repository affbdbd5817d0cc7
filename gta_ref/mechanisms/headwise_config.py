"""Sizes of the mechanisms without a decoder, MHA, GQA, GVA and GHA, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from gta_ref.errors import as_positive_float, as_size, check_bool, check_choice, check_divides
from gta_ref.mechanisms.structure import Product, Structure, kept_by_output
from gta_ref.ops.arrays import check_config
from gta_ref.ops.gate import GATES
from gta_ref.ops.rope import PAIRINGS


@dataclass(frozen=True)
class HeadwiseConfig:
    """Sizes that MHA, GQA, GVA and GHA share, checked on construction.

    In a subclass each of n_q, n_k and n_v is a field if it can be chosen, and a property if it follows from
    the others.

    Parameters
    ----------
    hidden_size : int
        H, the model's width.
    n_heads : int
        n_h, output heads.
    head_dim : int
        d_h, width of a head, a query, a key and a value; must be even if there is RoPE.
    rope_theta : float
        Base of RoPE. Default 10000.
    rope_pairing : {"half", "interleaved", "none"}
        Which features RoPE turns together, see :mod:`gta_ref.ops.rope`. "none": no RoPE. Default "half".
    gate : {"sigmoid", "silu", "relu2", "none"}
        Activation of the gate on the heads, which is that of GTA. Default "none": no gate.
    bias : bool
        Whether the projections to Q, K, V and the gate have a bias. Default False.
    output_bias : bool
        Whether W_O has a bias. Default False.

    Raises
    ------
    ValueError
        Naming the field, its value and what was expected.
    """

    mechanism: ClassVar[str]

    hidden_size: int
    n_heads: int
    head_dim: int
    _: KW_ONLY  # so that a subclass can add sizes before the options
    rope_theta: float = 10000.0
    rope_pairing: str = "half"
    gate: str = "none"
    bias: bool = False
    output_bias: bool = False

    if TYPE_CHECKING:

        @property
        def n_q(self) -> int:
            """Query heads; each has an attention map."""

        @property
        def n_k(self) -> int:
            """Key heads."""

        @property
        def n_v(self) -> int:
            """Value heads of width d_h."""

    def __post_init__(self) -> None:
        sizes = [f.name for f in fields(self) if f.default is MISSING]  # every size must be given
        for name in sizes:
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        object.__setattr__(self, "rope_theta", as_positive_float("rope_theta", self.rope_theta))
        check_choice("rope_pairing", self.rope_pairing, PAIRINGS)
        check_choice("gate", self.gate, GATES)
        check_bool("bias", self.bias)
        check_bool("output_bias", self.output_bias)
        if self.rope_pairing != "none" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE turns pairs of features")
        check_divides("n_q", self.n_q, "n_heads", self.n_heads)
        check_divides("n_k", self.n_k, "n_q" if "n_q" in sizes else "n_heads", self.n_q)
        r = self.heads_per_map
        if self.n_v % r:
            raise ValueError(f"n_v={self.n_v} must be a multiple of n_heads/n_q={r}: one map serves that many heads")
        if self.n_q % self.n_blocks:
            raise ValueError(
                f"n_v={self.n_v} makes {self.n_blocks} blocks of n_heads/n_q={r} value heads; "
                f"expected their number to divide n_q={self.n_q}"
            )

    @property
    def heads_per_map(self) -> int:
        """Output heads that one map serves: r = n_h/n_q."""
        return self.n_heads // self.n_q

    @property
    def n_blocks(self) -> int:
        """Blocks of r value heads, the value heads of the attention core: s = n_v/r."""
        return self.n_v // self.heads_per_map

    @property
    def scale(self) -> float:
        """1/√d_h, the factor on the scores."""
        return 1 / math.sqrt(self.head_dim)


def param_shapes(config: HeadwiseConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter: w_q w_k w_v, w_g with a gate, w_o; b_… beside each with a bias."""
    check_config(config, HeadwiseConfig)
    c = config
    widths = {"q": c.n_q * c.head_dim, "k": c.n_k * c.head_dim, "v": c.n_v * c.head_dim}  # from H
    if c.gate != "none":
        widths["g"] = c.n_heads * c.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for name, width in widths.items():
        shapes[f"w_{name}"] = (c.hidden_size, width)
        if c.bias:
            shapes[f"b_{name}"] = (width,)
    shapes["w_o"] = (c.n_heads * c.head_dim, c.hidden_size)
    if c.output_bias:
        shapes["b_o"] = (c.hidden_size,)
    return shapes


def structure(config: HeadwiseConfig) -> Structure:
    """The layer's products, its attention core (where a block is one value head) and what it caches."""
    shapes = param_shapes(config)
    d_v = config.heads_per_map * config.head_dim
    return Structure(
        mechanism=config.mechanism,
        hidden_size=config.hidden_size,
        n_heads=config.n_heads,
        n_q=config.n_q,
        n_k=config.n_k,
        n_v=config.n_blocks,
        d_k=config.head_dim,
        d_v=d_v,
        products=tuple(
            Product(name, shape[0], shape[1], bias=name.replace("w_", "b_") in shapes)
            for name, shape in shapes.items()
            if name.startswith("w_")
        ),
        cached={"k": (config.n_k, config.head_dim), "v": (config.n_blocks, d_v)},
        gate=config.gate,
        kept={
            "x": config.hidden_size,
            "q": config.n_q * config.head_dim,
            "k": config.n_k * config.head_dim,
            "v": config.n_v * config.head_dim,
            **kept_by_output(config.n_heads * config.head_dim, config.gate),
        },
    )
