"""A decoder language model's sizes, its parameters' names and shapes, and random ones to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.errors import as_positive_float, as_size, check_bool, check_choice
from gta_ref.lm import block
from gta_ref.mechanisms.published import BASE, PUBLISHED
from gta_ref.ops import Array, as_dtype
from gta_ref.ops.arrays import check_config, check_rng, normal


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder LM.

    Parameters
    ----------
    vocab_size : int
    n_layers : int
    intermediate_size : int
        Width inside the SwiGLU MLP.
    attention : a mechanism's Config, or a sequence of n_layers of them
        One for all layers, or one for each. A sequence is kept as a tuple; if all its entries are equal, as the one.
    mechanism : str
        The name of that mechanism. Default "gta".
    norm_eps : float
        ε of the RMSNorms. Default 1e-5.
    tied : bool
        Whether the head is the embedding's transpose. Default True.
    """

    vocab_size: int
    n_layers: int
    intermediate_size: int
    attention: Any
    mechanism: str = "gta"
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layers", "intermediate_size"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        if isinstance(self.attention, (tuple, list)):
            self._check_layers()
        else:
            self._check_attention("attention", self.attention)
        object.__setattr__(self, "norm_eps", as_positive_float("norm_eps", self.norm_eps))
        check_bool("tied", self.tied)

    def _check_attention(self, name: str, attention: Any) -> None:
        if not isinstance(attention, self.module.Config):
            raise ValueError(
                f"{name} is a {type(attention).__module__}.{type(attention).__name__}; "
                f"expected the Config of mechanism={self.mechanism!r}"
            )

    def _check_layers(self) -> None:
        """Check a sequence of the layers' Configs, and keep one if they are all equal."""
        layers = tuple(self.attention)
        if len(layers) != self.n_layers:
            raise ValueError(f"attention has {len(layers)} Configs; expected one, or n_layers={self.n_layers}")
        for i, attention in enumerate(layers):
            self._check_attention(f"attention[{i}]", attention)
            if attention.hidden_size != layers[0].hidden_size:
                raise ValueError(
                    f"attention[{i}].hidden_size={attention.hidden_size} must be {layers[0].hidden_size}, as in layer 0"
                )
        object.__setattr__(self, "attention", layers[0] if len(set(layers)) == 1 else layers)

    @property
    def module(self) -> ModuleType:
        """The mechanism's module."""
        return mechanisms.load(self.mechanism)

    @property
    def hidden_size(self) -> int:
        """H, the model's width."""
        width: int = self.layer(0).hidden_size
        return width

    def layer(self, i: int) -> Any:
        """The attention's Config of layer i."""
        return self.attention[i] if isinstance(self.attention, tuple) else self.attention

    @property
    def layers(self) -> tuple[Any, ...]:
        """The attention's Config of every layer."""
        return self.attention if isinstance(self.attention, tuple) else (self.attention,) * self.n_layers

    @property
    def cache_elements(self) -> float:
        """Cached elements per token and layer; the mean over the layers, if they differ."""
        return float(self.mean_over_layers("cache_elements"))

    def mean_over_layers(self, name: str) -> float:
        """Mean over the layers of a number of their structures, such as "attention_macs"; an int if it is whole."""
        total: int = sum(getattr(self.module.structure(attention), name) for attention in self.layers)
        return total / self.n_layers if total % self.n_layers else total // self.n_layers

    @classmethod
    def preset(cls, name: str) -> Config:
        """Return a published model by name: "gta-1b" or its baseline "gqa-1b"."""
        check_choice("preset", name, tuple(PUBLISHED))
        mechanism = PUBLISHED[name]
        attention = mechanisms.load(mechanism).Config.preset(name)
        return cls(attention=attention, mechanism=mechanism, **BASE)


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter: embed, layers.0.…, norm, and head (H, vocabulary) unless it is tied."""
    check_config(config, Config)
    shapes: dict[str, tuple[int, ...]] = {"embed": (config.vocab_size, config.hidden_size)}
    for i, attention in enumerate(config.layers):
        one = block.param_shapes(config.module, attention, config.intermediate_size)
        shapes |= {f"layers.{i}.{name}": shape for name, shape in one.items()}
    shapes["norm"] = (config.hidden_size,)
    if not config.tied:
        shapes["head"] = (config.hidden_size, config.vocab_size)
    return shapes


def init(config: Config, rng: np.random.Generator, dtype: Any = "float32") -> dict[str, Array]:
    """Random parameters: weights of variance 1/d_in, as the mechanism's own `init` draws them; the norms' gains are 1.

    Two choices keep a token's embedding visible up to the last layer. The embedding has variance 1/H, so that a tied
    head starts with logits of standard deviation 1. And the W_O and W_down of the 2L sublayers, which add to the
    residual stream, are divided by √(2L), so that all sublayers together add as much as one would undivided.
    """
    check_config(config, Config)
    check_rng(rng)
    dtype = as_dtype(dtype)
    params: dict[str, Array] = {}
    attention: dict[str, Array] = {}
    layers = iter(config.layers)
    for name, shape in param_shapes(config).items():
        if name.endswith("norm_1"):  # the first parameter of every layer
            attention = config.module.init(next(layers), rng, dtype)
        if ".attention." in name:
            params[name] = attention[name.rpartition(".")[2]]
        elif len(shape) == 1:
            params[name] = np.ones(shape, dtype)
        else:
            d_in = config.hidden_size if name == "embed" else shape[0]
            params[name] = normal(rng, shape, d_in**-0.5, dtype)
        if name.endswith((".w_o", ".w_down")):
            params[name] *= dtype.type((2 * config.n_layers) ** -0.5)
    return params
