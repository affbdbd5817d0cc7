"""MLA's sizes: the configuration, the published ones by name, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gta_ref.errors import as_heads, as_positive_float, as_size, check_bool, check_choice
from gta_ref.mechanisms.structure import Product, Structure, kept_by_output
from gta_ref.ops.arrays import check_config
from gta_ref.ops.gate import GATES
from gta_ref.ops.rope import PAIRINGS, as_frequencies

# name: (H, n_h, d_c, d_nope, d_rope, d_v, query latent)
_PUBLISHED = {"deepseek-v2": (5120, 128, 512, 128, 64, 128, 1536)}


@dataclass(frozen=True)
class Config:
    """Sizes of one MLA layer, checked on construction.

    Parameters
    ----------
    hidden_size : int
        H, the model's width.
    n_heads : int
        n_h, output heads and attention maps.
    latent_dim : int
        d_c, width of the latent that keys and values are made from.
    nope_dim : int
        d_nope, width of a head's query and key without position.
    rope_dim : int
        d_rope, width of a head's query and of the shared key with RoPE; must be even if there is RoPE. 0: no
        part of the layer depends on positions.
    value_dim : int
        d_v, width of a head's value.
    query_latent_dim : int, optional
        d_cq, width of the latent that queries are made from. None: queries come from x.
    latent_norm : bool
        Whether each latent passes through an RMSNorm. Default True.
    norm_eps : float
        ε of these RMSNorms. Default 1e-6, as in DeepSeek's code, whatever the rest of the model has.
    rope_theta : float
        Base of RoPE. Default 10000.
    rope_pairing : {"half", "interleaved", "none"}
        Which features RoPE turns together, see :mod:`gta_ref.ops.rope`. "none": no RoPE. Default "half".
    rope_frequencies : sequence of up to d_rope/2 floats, optional
        RoPE's frequencies in place of θ_base^(−2t/d_rope), as :mod:`gta_ref.ops.rope_scaling` computes them; rope_theta
        is then not used. Kept as a tuple.
    rope_magnitude : float
        Factor on the turned features of queries and keys, YaRN's. Default 1.
    score_scale : float, optional
        Factor on the scores. Default 1/√(d_nope + d_rope).
    gate : {"sigmoid", "silu", "relu2", "none"}
        Activation of the gate on the heads, which is that of GTA. Default "none": no gate.
    bias : bool
        Whether the projections from x, including that of the gate, have a bias. Default False. The
        up-projections never do, because only a plain matrix can be absorbed; neither does W_O.

    Raises
    ------
    ValueError
        Naming the field, its value and what was expected.
    """

    hidden_size: int
    n_heads: int
    latent_dim: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    query_latent_dim: int | None = None
    latent_norm: bool = True
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_pairing: str = "half"
    rope_frequencies: Sequence[float] | None = None
    rope_magnitude: float = 1.0
    score_scale: float | None = None
    gate: str = "none"
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden_size", "n_heads", "latent_dim", "nope_dim", "value_dim"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        object.__setattr__(self, "rope_dim", as_size("rope_dim", self.rope_dim, at_least=0))
        if self.query_latent_dim is not None:
            dim = as_size("query_latent_dim", self.query_latent_dim)
            object.__setattr__(self, "query_latent_dim", dim)
        for name in ("norm_eps", "rope_theta", "rope_magnitude"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
        if self.score_scale is not None:
            object.__setattr__(self, "score_scale", as_positive_float("score_scale", self.score_scale))
        check_choice("rope_pairing", self.rope_pairing, PAIRINGS)
        check_choice("gate", self.gate, GATES)
        check_bool("latent_norm", self.latent_norm)
        check_bool("bias", self.bias)
        frequencies = as_frequencies("rope_frequencies", self.rope_frequencies, self.rope_dim, self.rope_pairing)
        object.__setattr__(self, "rope_frequencies", frequencies)
        if self.rope_pairing != "none" and self.rope_dim % 2:
            raise ValueError(f"rope_dim={self.rope_dim} must be even: RoPE turns pairs of features")

    @property
    def scale(self) -> float:
        """The factor on the scores, whichever way they are computed: 1/√(d_nope + d_rope), or `score_scale`."""
        return 1 / math.sqrt(self.nope_dim + self.rope_dim) if self.score_scale is None else self.score_scale

    @classmethod
    def preset(cls, name: str) -> Config:
        """A published configuration by name: "deepseek-v2", without its YaRN extension to long contexts."""
        check_choice("preset", name, tuple(_PUBLISHED))
        return cls(*_PUBLISHED[name], rope_pairing="interleaved")


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter; :mod:`gta_ref.mechanisms.mla` says what each is."""
    check_config(config, Config)
    c = config
    shapes: dict[str, tuple[int, ...]] = {}

    def from_x(name: str, width: int) -> None:
        shapes[f"w_{name}"] = (c.hidden_size, width)
        if c.bias:
            shapes[f"b_{name}"] = (width,)

    if c.query_latent_dim is None:
        from_x("q", c.n_heads * c.nope_dim)
        if c.rope_dim:
            from_x("qr", c.n_heads * c.rope_dim)
    else:
        from_x("dq", c.query_latent_dim)
        if c.latent_norm:
            shapes["norm_q"] = (c.query_latent_dim,)
        shapes["w_uq"] = (c.query_latent_dim, c.n_heads * c.nope_dim)
        if c.rope_dim:
            shapes["w_qr"] = (c.query_latent_dim, c.n_heads * c.rope_dim)
    from_x("dkv", c.latent_dim)
    if c.latent_norm:
        shapes["norm_c"] = (c.latent_dim,)
    if c.rope_dim:
        from_x("kr", c.rope_dim)
    shapes["w_uk"] = (c.latent_dim, c.n_heads * c.nope_dim)
    shapes["w_uv"] = (c.latent_dim, c.n_heads * c.value_dim)
    if c.gate != "none":
        from_x("g", c.n_heads * c.value_dim)
    shapes["w_o"] = (c.n_heads * c.value_dim, c.hidden_size)
    return shapes


def small_sizes(n_heads: int, head_dim: int) -> dict[str, Any]:
    """Sizes for a small model, in the proportions of the published ones; the fields of :class:`Config` but hidden_size.

    It caches as much as GTA does with the same heads: 5/2 of a head as latent, 1/2 with RoPE.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim)
    return {
        "n_heads": n_heads,
        "nope_dim": head_dim,
        "value_dim": head_dim,
        "rope_dim": head_dim // 2,
        "latent_dim": 5 * head_dim // 2,
    }


def structure(config: Config, absorb: bool = False) -> Structure:
    """The layer's products, its attention core and what it caches, for one of the two ways to run it.

    Both ways have the same products with the same number of multiply–accumulates, and cache the same. They
    differ in the attention core and in how often W_UK and W_UV are used:

    - absorb=False: they decompress the latent, (d_c → n_h·d_nope) and (d_c → n_h·d_v). Over whole sequences
      this happens once per token. In decoding, every step does it again for all tokens in the cache, old and
      new (`Product.held`), because only the latent is kept. The core has n_h key heads, d_nope + d_rope
      wide, and n_h value heads, d_v wide.
    - absorb=True: they are used once for every new token, as n_h products each, (d_nope → d_c) on its query
      and (d_c → d_v) on its attended latent; no cached token is touched outside the core. The core has one
      key head, d_c + d_rope wide, and one value head, d_c wide, for all n_h maps.

    All other products run once for every new token.

    Parameters
    ----------
    config : Config
    absorb : bool
        Default False.

    Returns
    -------
    Structure
    """
    check_bool("absorb", absorb)
    check_config(config, Config)
    c = config
    shapes = param_shapes(config)
    products = []
    for name, shape in shapes.items():
        if name == "w_uk" and absorb:
            products.append(Product(name, c.nope_dim, c.latent_dim, c.n_heads))
        elif name == "w_uv" and absorb:
            products.append(Product(name, c.latent_dim, c.value_dim, c.n_heads))
        elif name.startswith("w_"):
            bias = name.replace("w_", "b_") in shapes
            products.append(Product(name, shape[0], shape[1], bias=bias, held=name in ("w_uk", "w_uv")))
    cached = {"c": (1, c.latent_dim)}
    if c.rope_dim:
        cached["k_rope"] = (1, c.rope_dim)
    return Structure(
        mechanism="mla",
        hidden_size=c.hidden_size,
        n_heads=c.n_heads,
        n_q=c.n_heads,
        n_k=1 if absorb else c.n_heads,
        n_v=1 if absorb else c.n_heads,
        d_k=(c.latent_dim if absorb else c.nope_dim) + c.rope_dim,
        d_v=c.latent_dim if absorb else c.value_dim,
        products=tuple(products),
        cached=cached,
        gate=c.gate,
        gains=sum(shape[0] for name, shape in shapes.items() if name.startswith("norm_")),
        kept=_kept(config, absorb),
    )


def _kept(config: Config, absorb: bool) -> dict[str, int]:
    """What the layer keeps for its backward; a latent with a norm is kept before and after it, and its 1/r."""
    c = config
    key = c.nope_dim + c.rope_dim
    kept = {"x": c.hidden_size}
    for name, width in (("c_q", c.query_latent_dim), ("c", c.latent_dim)):
        if width is not None:
            kept[name] = width
            if c.latent_norm:
                kept |= {f"{name}_proj": width, f"{name}_norm": 1}
    if absorb:
        kept |= {"q_nope": c.n_heads * c.nope_dim, "q": c.n_heads * (c.latent_dim + c.rope_dim)}
        if c.rope_dim:  # else the key is the latent itself
            kept["k"] = c.latent_dim + c.rope_dim
        kept["z"] = c.n_heads * c.latent_dim
    else:
        kept |= {"q": c.n_heads * key, "k": c.n_heads * key, "v": c.n_heads * c.value_dim}
    return kept | kept_by_output(c.n_heads * c.value_dim, c.gate)
