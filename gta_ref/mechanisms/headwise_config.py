"""Sizes of the mechanisms without a decoder, MHA, GQA, GVA and GHA, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from gta_ref.errors import as_positive_float, as_size, check_bool, check_choice, check_divides
from gta_ref.mechanisms.structure import Product, Structure, kept_by_output
from gta_ref.ops.arrays import check_config
from gta_ref.ops.gate import GATES
from gta_ref.ops.rope import PAIRINGS, as_frequencies


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
    rope_frequencies : sequence of r/2 floats, optional
        RoPE's frequencies in place of θ_base^(−2t/d_h), as :mod:`gta_ref.ops.rope_scaling` computes them; rope_theta
        is then not used. With r < d_h the first r features of a head are turned. Kept as a tuple.
    rope_magnitude : float
        Factor on the turned features of queries and keys, YaRN's. Default 1.
    score_scale : float, optional
        Factor on the scores. Default 1/√d_h.
    qk_norm : bool
        Whether every head of Q and of K passes through an RMSNorm before RoPE, with one gain (d_h,) for all queries
        and one for all keys, as in Qwen3. Default False.
    norm_eps : float
        ε of these RMSNorms. Default 1e-6.
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
    rope_frequencies: Sequence[float] | None = None
    rope_magnitude: float = 1.0
    score_scale: float | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-6
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
        for name in ("rope_theta", "rope_magnitude", "norm_eps"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
        if self.score_scale is not None:
            object.__setattr__(self, "score_scale", as_positive_float("score_scale", self.score_scale))
        check_choice("rope_pairing", self.rope_pairing, PAIRINGS)
        check_choice("gate", self.gate, GATES)
        for name in ("bias", "output_bias", "qk_norm"):
            check_bool(name, getattr(self, name))
        frequencies = as_frequencies("rope_frequencies", self.rope_frequencies, self.head_dim, self.rope_pairing)
        object.__setattr__(self, "rope_frequencies", frequencies)
        if self.rope_pairing != "none" and self.rope_frequencies is None and self.head_dim % 2:
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
        """The factor on the scores: 1/√d_h, or `score_scale`."""
        return 1 / math.sqrt(self.head_dim) if self.score_scale is None else self.score_scale


def param_shapes(config: HeadwiseConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter: w_q w_k w_v, w_g with a gate, w_o; b_… beside each with a bias.

    With qk_norm also the gains norm_q and norm_k.
    """
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
        if c.qk_norm and name in ("q", "k"):
            shapes[f"norm_{name}"] = (c.head_dim,)
    shapes["w_o"] = (c.n_heads * c.head_dim, c.hidden_size)
    if c.output_bias:
        shapes["b_o"] = (c.hidden_size,)
    return shapes


def structure(config: HeadwiseConfig) -> Structure:
    """The layer's products, its attention core (where a block is one value head) and what it caches."""
    shapes = param_shapes(config)
    d_v = config.heads_per_map * config.head_dim
    kept = {"x": config.hidden_size}
    for name, heads in (("q", config.n_q), ("k", config.n_k)):
        kept[name] = heads * config.head_dim
        if config.qk_norm:  # before the norm as well, and its 1/r
            kept |= {f"{name}_proj": heads * config.head_dim, f"{name}_norm": heads}
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
        gains=sum(shape[0] for name, shape in shapes.items() if name.startswith("norm_")),
        kept={
            **kept,
            "v": config.n_v * config.head_dim,
            **kept_by_output(config.n_heads * config.head_dim, config.gate),
        },
    )
