"""GTA's sizes: the configuration, the published ones by name, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gta_ref.errors import as_heads, as_positive_float, as_size, check_bool, check_choice, check_divides
from gta_ref.mechanisms.structure import Product, Structure, kept_by_output
from gta_ref.ops.arrays import check_config
from gta_ref.ops.gate import GATES
from gta_ref.ops.rope import PAIRINGS

# name: (H, n_h, n_q, n_k, n_c, d_l, residual); d_h is 64 in all of them. For gta4 e would be 1/2, so it
# exists only in the paper's form of the decoder.
_PUBLISHED = {
    "gta1-160m": (768, 12, 3, 1, 1, 128, True),
    "gta2-160m": (768, 12, 6, 1, 1, 128, True),
    "gta3-500m": (1280, 20, 5, 1, 1, 128, True),
    "gta4-500m": (1280, 20, 10, 1, 1, 256, False),
    "gta-1b": (1280, 20, 5, 1, 1, 128, True),
}


@dataclass(frozen=True)
class Config:
    """Sizes of one GTA layer, checked on construction.

    Parameters
    ----------
    hidden_size : int
        H, the model's width.
    n_heads : int
        n_h, output heads.
    head_dim : int
        d_h, width of a head, a query and a key; must be even if there is RoPE.
    n_q : int
        Query heads, each with an attention map; divides n_heads.
    n_k : int
        Key heads; divides n_q.
    n_c : int
        Latent value heads; divides n_q.
    latent_dim : int
        d_l, width of a latent value head.
    rope_theta : float
        Base of RoPE. Default 10000.
    rope_pairing : {"half", "interleaved", "none"}
        Which features RoPE turns together, see :mod:`gta_ref.ops.rope`. "none": no RoPE. Default "half".
    gate : {"sigmoid", "silu", "relu2", "none"}
        Activation of the gate. Default "sigmoid", the paper's choice.
    decoder_residual : bool
        False, the default: the paper's decoder. True: the released code's, for which
        e = n_heads·head_dim / (n_q·latent_dim) must be a whole number.
    bias : bool
        Whether the projections to Q, K, C and the gate have a bias. The decoder and W_O never do. Default True.

    Raises
    ------
    ValueError
        Naming the field, its value and what was expected.
    """

    hidden_size: int
    n_heads: int
    head_dim: int
    n_q: int
    n_k: int
    n_c: int
    latent_dim: int
    rope_theta: float = 10000.0
    rope_pairing: str = "half"
    gate: str = "sigmoid"
    decoder_residual: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden_size", "n_heads", "head_dim", "n_q", "n_k", "n_c", "latent_dim"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        object.__setattr__(self, "rope_theta", as_positive_float("rope_theta", self.rope_theta))
        check_divides("n_q", self.n_q, "n_heads", self.n_heads)
        check_divides("n_k", self.n_k, "n_q", self.n_q)
        check_divides("n_c", self.n_c, "n_q", self.n_q)
        check_choice("rope_pairing", self.rope_pairing, PAIRINGS)
        check_choice("gate", self.gate, GATES)
        check_bool("decoder_residual", self.decoder_residual)
        check_bool("bias", self.bias)
        if self.rope_pairing != "none" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE turns pairs of features")
        if self.decoder_residual and self.decoder_width % self.latent_dim:
            raise ValueError(
                f"decoder_residual=True needs a whole e = n_heads·head_dim / (n_q·latent_dim), "
                f"got {self.n_heads}·{self.head_dim} / ({self.n_q}·{self.latent_dim}) "
                f"= {self.decoder_width / self.latent_dim:g}"
            )
        _ = self.shapes, self.scale  # computed here, so that a call of the layer only reads them

    @property
    def decoder_width(self) -> int:
        """Columns that one map's decoder fills: (n_h/n_q)·d_h."""
        return self.n_heads // self.n_q * self.head_dim

    @property
    def residual_copies(self) -> int:
        """Copies e of the latent context that the released code's residual lays side by side."""
        return self.decoder_width // self.latent_dim

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter: :func:`param_shapes`, computed once."""
        return param_shapes(self)

    @cached_property
    def scale(self) -> float:
        """1/√d_h, the factor on the scores."""
        return 1 / math.sqrt(self.head_dim)

    @classmethod
    def preset(cls, name: str) -> Config:
        """A published configuration by name, in the released form if its e is a whole number.

        Parameters
        ----------
        name : {"gta1-160m", "gta2-160m", "gta3-500m", "gta4-500m", "gta-1b"}
        """
        check_choice("preset", name, tuple(_PUBLISHED))
        hidden_size, n_heads, n_q, n_k, n_c, latent_dim, residual = _PUBLISHED[name]
        return cls(hidden_size, n_heads, 64, n_q, n_k, n_c, latent_dim, decoder_residual=residual)


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter.

    w_p is (n_q, d_l, (n_h/n_q)·d_h): the decoders of the heads that share a map stand side by side.
    """
    check_config(config, Config)
    c = config
    with_bias: dict[str, int] = {  # name: output width; from H
        "q": c.n_q * c.head_dim,
        "k": c.n_k * c.head_dim,
        "c": c.n_c * c.latent_dim,
        "g": c.n_heads * c.head_dim,
    }
    if c.gate == "none":
        del with_bias["g"]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, width in with_bias.items():
        shapes[f"w_{name}"] = (c.hidden_size, width)
        if c.bias:
            shapes[f"b_{name}"] = (width,)
    shapes["w_p"] = (c.n_q, c.latent_dim, c.decoder_width)
    shapes["w_o"] = (c.n_heads * c.head_dim, c.hidden_size)
    return shapes


def small_sizes(n_heads: int, head_dim: int) -> dict[str, Any]:
    """Sizes for a small model, in the proportions of the published ones; the fields of :class:`Config` but hidden_size.

    Four heads share a map, over one key head and one latent head of twice the head's width, as in GTA-1B.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim, multiple_of=4)
    return {
        "n_heads": n_heads,
        "head_dim": head_dim,
        "n_q": n_heads // 4,
        "n_k": 1,
        "n_c": 1,
        "latent_dim": 2 * head_dim,
        "decoder_residual": True,
    }


def structure(config: Config) -> Structure:
    """The layer's products, its attention core and what it caches."""
    products = []
    shapes = param_shapes(config)
    for name, shape in shapes.items():
        if name.startswith("w_"):
            count = shape[0] if len(shape) == 3 else 1
            products.append(Product(name, shape[-2], shape[-1], count, name.replace("w_", "b_") in shapes))
    return Structure(
        mechanism="gta",
        hidden_size=config.hidden_size,
        n_heads=config.n_heads,
        n_q=config.n_q,
        n_k=config.n_k,
        n_v=config.n_c,
        d_k=config.head_dim,
        d_v=config.latent_dim,
        products=tuple(products),
        cached={"k": (config.n_k, config.head_dim), "c": (config.n_c, config.latent_dim)},
        gate=config.gate,
        decoder_residual=config.decoder_residual,
        kept={
            "x": config.hidden_size,
            "q": config.n_q * config.head_dim,
            "k": config.n_k * config.head_dim,
            "c": config.n_c * config.latent_dim,
            "z": config.n_q * config.latent_dim,
            **kept_by_output(config.n_heads * config.head_dim, config.gate),
        },
    )
