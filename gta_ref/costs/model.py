"""The sizes that a cost depends on: an attention layer's structure and the model around it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import groupby
from typing import Any, NamedTuple

from gta_ref import mechanisms
from gta_ref.costs.experts import Experts
from gta_ref.errors import as_size, check_bool, check_choice, check_type, refuse, shown
from gta_ref.mechanisms.published import BASE, BASE_ATTENTION, PUBLISHED
from gta_ref.mechanisms.structure import Structure


class Group(NamedTuple):
    """Attention layers of the same sizes.

    Attributes
    ----------
    structure : Structure
        Structure of such a layer when it computes whole sequences.
    decode_structure : Structure
        Structure of the same layer in a decoding step. It differs only for MLA, which then attends in the latent space.
    n_layers : int
        Number of these layers.
    """

    structure: Structure
    decode_structure: Structure
    n_layers: int


@dataclass(frozen=True)
class Model:
    """A decoder language model: an embedding, layers of RMSNorm, attention and SwiGLU MLP, and a head.

    Attributes
    ----------
    name : str
    groups : sequence of Group
        The attention layers: one group if all have the same sizes, else several. Kept as a tuple. The order has no
        effect on the costs.
    intermediate_size, vocab_size : int
    tied : bool
        Whether the head is the embedding's transpose. Default True.
    experts : Experts, optional
        Mixtures of experts that all layers but the first ones have in place of the MLP. Default None.
    """

    name: str
    groups: tuple[Group, ...]
    intermediate_size: int
    vocab_size: int
    tied: bool = True
    experts: Experts | None = None

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a str")
        if not self.name.isprintable():
            raise ValueError(f"name={shown(self.name)} must consist of characters that can be printed")
        self._check_groups()
        for name in ("intermediate_size", "vocab_size"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        check_bool("tied", self.tied)
        check_type("experts", self.experts, (Experts, type(None)), "a gta_ref.costs.experts.Experts or None")
        if self.experts is not None and self.experts.first > self.n_layers:
            raise ValueError(f"experts.first={self.experts.first} must be at most n_layers={self.n_layers}")

    def _check_groups(self) -> None:
        if not isinstance(self.groups, (tuple, list)) or not self.groups:
            refuse("groups", self.groups, "a sequence of at least one gta_ref.costs.model.Group")
        checked = []
        for i, group in enumerate(self.groups):
            check_type(f"groups[{i}]", group, Group, "a gta_ref.costs.model.Group")
            for name in ("structure", "decode_structure"):
                structure = getattr(group, name)
                check_structure(f"groups[{i}].{name}", structure)
                if structure.hidden_size != self.groups[0].structure.hidden_size:
                    raise ValueError(
                        f"groups[{i}].{name}.hidden_size={structure.hidden_size} must be "
                        f"{self.groups[0].structure.hidden_size}, as in groups[0].structure"
                    )
            checked.append(group._replace(n_layers=as_size("n_layers", group.n_layers)))
        object.__setattr__(self, "groups", tuple(checked))

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return sum(group.n_layers for group in self.groups)

    @property
    def structure(self) -> Structure:
        """Structure of every attention layer when it computes whole sequences; ValueError if the layers differ."""
        return self._only_group.structure

    @property
    def decode_structure(self) -> Structure:
        """Structure of every attention layer in a decoding step; ValueError if the layers differ."""
        return self._only_group.decode_structure

    @property
    def _only_group(self) -> Group:
        if len(self.groups) > 1:
            raise ValueError(f"model {self.name} has {len(self.groups)} groups of layers; expected one, of one size")
        return self.groups[0]

    @property
    def hidden_size(self) -> int:
        """H, the model's width."""
        return self.groups[0].structure.hidden_size

    @property
    def mlp_macs(self) -> int:
        """Multiply–accumulates of one layer's MLP per token; it has as many parameters."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def mlp_layers(self) -> int:
        """Layers with an MLP; the others have a mixture of experts."""
        return self.n_layers if self.experts is None else self.experts.first

    @property
    def all_mlp_macs(self) -> int:
        """Multiply–accumulates per token of all layers' MLPs or mixtures of experts."""
        plain = self.mlp_layers * self.mlp_macs
        if self.experts is None:
            return plain
        return plain + (self.n_layers - self.mlp_layers) * self.experts.macs(self.hidden_size)

    @property
    def head_macs(self) -> int:
        """Multiply–accumulates of the head per token whose logits are computed."""
        return self.hidden_size * self.vocab_size

    @property
    def parameters(self) -> int:
        """Number of all weights, biases and gains."""
        layers = sum(n * (layer.parameters + 2 * self.hidden_size) for layer, _, n in self.groups)
        mlps = self.mlp_layers * self.mlp_macs
        if self.experts is not None:
            mlps += (self.n_layers - self.mlp_layers) * self.experts.parameters(self.hidden_size)
        embeddings = self.head_macs * (1 if self.tied else 2)
        return layers + mlps + embeddings + self.hidden_size

    @classmethod
    def of(cls, name: str, mechanism: str, attention: Any, *, experts: Experts | None = None, **sizes: Any) -> Model:
        """Build a model around a mechanism's Config, or a sequence of n_layers of them.

        The `sizes` are n_layers, intermediate_size, vocab_size and tied; those that are left out are GTA-1B's.
        """
        module = mechanisms.load(mechanism)
        unknown = sizes.keys() - BASE.keys()
        if unknown:
            raise ValueError(f"sizes: unknown {', '.join(sorted(unknown))}; expected {', '.join(BASE)}")
        around = {**BASE, **sizes}
        n_layers = as_size("n_layers", around.pop("n_layers"))
        if not isinstance(attention, (tuple, list)):
            check_type("attention", attention, module.Config, f"the Config of mechanism={mechanism!r}")
            counts = [(attention, n_layers)]
        else:
            if len(attention) != n_layers:
                raise ValueError(f"attention has {len(attention)} Configs; expected one, or n_layers={n_layers}")
            for i, one in enumerate(attention):
                check_type(f"attention[{i}]", one, module.Config, f"the Config of mechanism={mechanism!r}")
            counts = [(one, len(list(alike))) for one, alike in groupby(attention)]
        latent = {"absorb": True} if "absorb" in inspect.signature(module.structure).parameters else {}
        groups = [Group(module.structure(one), module.structure(one, **latent), n) for one, n in counts]
        return cls(name, tuple(groups), **around, experts=experts)

    @classmethod
    def preset(cls, name: str) -> Model:
        """Return a published model: "gta-1b" or its baseline "gqa-1b"."""
        check_choice("model", name, tuple(PUBLISHED))
        mechanism = PUBLISHED[name]
        return cls.of(name, mechanism, mechanisms.load(mechanism).Config.preset(name))

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> Model:
        """Build a model from names and sizes, as a JSON file holds them.

        Parameters
        ----------
        sizes : mapping
            ``mechanism``, the fields of its Config, n_layers, intermediate_size, vocab_size and tied, and a ``name``.
            Defaults: ``name`` is the mechanism's; n_layers, intermediate_size, vocab_size, tied, hidden_size, n_heads
            and head_dim are GTA-1B's.

        Raises
        ------
        ValueError
            If a size is missing, unknown or does not fit; the message names it.
        """
        if not isinstance(sizes, Mapping) or "mechanism" not in sizes:
            raise ValueError("model: missing mechanism; expected a mapping with mechanism and its sizes")
        rest = dict(sizes)
        mechanism = rest.pop("mechanism")
        config = mechanisms.load(mechanism).Config
        name = str(rest.pop("name", mechanism))
        around = {key: rest.pop(key) for key in BASE if key in rest}
        known = {f.name: f for f in fields(config) if f.init}
        unknown = sorted(str(key) for key in rest.keys() - known.keys())
        attention = {**{k: v for k, v in BASE_ATTENTION.items() if k in known}, **rest}
        missing = [k for k, f in known.items() if f.default is MISSING and k not in attention]
        if unknown or missing:
            parts = [f"missing {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise ValueError(f"model {name}: {'; '.join(parts)}; {mechanism} has {', '.join(known)}")
        return cls.of(name, mechanism, config(**attention), **around)

    @classmethod
    def parse(cls, text: str) -> Model:
        """Build a model from words, as typed on the command line: ``gta n_q=10 n_k=1 n_c=1 latent_dim=256``."""
        check_type("text", text, str, "a str")
        mechanism, *words = text.split() or [""]
        sizes: dict[str, Any] = {"mechanism": mechanism, "name": " ".join(text.split())}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise ValueError(f"model {shown(text)}: {shown(word)} must be of the form size=number")
            sizes[key] = _value(value)
        return cls.from_dict(sizes)


def check_model(name: str, model: Any) -> None:
    """Raise ValueError unless `model` is a Model."""
    check_type(name, model, Model, "a gta_ref.costs.model.Model")


def check_structure(name: str, structure: Any) -> None:
    """Raise ValueError unless `structure` is a Structure."""
    check_type(name, structure, Structure, "a Structure, as structure(config)")


def _value(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in ("true", "false"):
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
