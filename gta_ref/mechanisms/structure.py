"""What a mechanism consists of, in whole numbers: the one source for memory, parameters and operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Product:
    """`count` matrix products (d_in → d_out) that every token passes through once.

    Attributes
    ----------
    name : str
        The parameter's name.
    d_in, d_out : int
    count : int
        The decoder of GTA has one product per map.
    bias : bool
    held : bool
        False: the product is computed once, when its token is new. True: a decoding step computes it again for
        every token in the cache, the new ones included, as MLA does when it decompresses. Over whole
        sequences, without a cache, there is no difference.
    """

    name: str
    d_in: int
    d_out: int
    count: int = 1
    bias: bool = False
    held: bool = False

    @property
    def macs(self) -> int:
        """Multiply–accumulates per token."""
        return self.count * self.d_in * self.d_out

    @property
    def parameters(self) -> int:
        """Elements of the weight and the bias."""
        return self.macs + self.count * self.d_out * self.bias


@dataclass(frozen=True)
class Structure:
    """Sizes of one attention layer.

    Attributes
    ----------
    mechanism : str
    hidden_size : int
        H.
    n_heads : int
        Output heads.
    n_q, n_k, n_v : int
        Maps that are computed, key heads, value heads of the attention core.
    d_k, d_v : int
        Widths of a key and of a value in the attention core.
    products : tuple of Product
        Everything linear outside the core, in the order of execution.
    cached : mapping of str to (heads, width)
        What a token leaves in the cache.
    gate : str
        The gate's activation, or "none".
    gains : int
        Parameters of the RMSNorms inside the layer.
    decoder_residual : bool
        Whether the decoded values get copies of the latent context added.
    kept : mapping of str to int
        Elements per token that the layer keeps between forward and backward, by name, except for what depends
        on the engine: the map, or z and lse.
    """

    mechanism: str
    hidden_size: int
    n_heads: int
    n_q: int
    n_k: int
    n_v: int
    d_k: int
    d_v: int
    products: tuple[Product, ...]
    cached: Mapping[str, tuple[int, int]]
    gate: str = "none"
    gains: int = 0
    decoder_residual: bool = False
    kept: Mapping[str, int] = field(default_factory=dict)

    @property
    def cache_elements(self) -> int:
        """Elements that one token occupies in one layer's cache."""
        return sum(heads * width for heads, width in self.cached.values())

    @property
    def attention_macs(self) -> int:
        """Multiply–accumulates for every pair of a query and a key that it sees: n_q (d_k + d_v)."""
        return self.n_q * (self.d_k + self.d_v)

    @property
    def linear_macs(self) -> int:
        """Multiply–accumulates outside the attention core, per token of a pass over whole sequences."""
        return sum(product.macs for product in self.products)

    @property
    def held_macs(self) -> int:
        """The part of `linear_macs` that a decoding step repeats for every token in the cache.

        A step that appends n tokens to L held ones takes (linear_macs − held_macs) n + held_macs (L + n).
        """
        return sum(product.macs for product in self.products if product.held)

    @property
    def parameters(self) -> int:
        """Weights, biases and gains of the layer."""
        return sum(product.parameters for product in self.products) + self.gains


def kept_by_output(width: int, gate: str) -> dict[str, int]:
    """What the end of a layer keeps per token for its backward: the input of W_O, and all that a gate multiplies."""
    if gate == "none":
        return {"heads": width}
    return {"values": width, "gate_input": width, "gate": width, "heads": width}
