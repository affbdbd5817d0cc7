"""What a mutant is: a wrong implementation, which is the right one with one step replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gta_ref.verify.cases import DTYPES
from gta_ref.verify.stepwise.dispatch import HEADWISE, Stepwise

# of the kinds whose mistakes only some families can have
FAMILIES = {"headwise": HEADWISE, "mla": ("mla",), "lm": ("lm",)}


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation.

    Attributes
    ----------
    name : str
    cause : str
        What is wrong, in the words of the report.
    stage : tuple of str
        The array that goes wrong first, or several if it depends on the case.
    kind : {"attention", "layer", "decode", "headwise", "headwise-decode", "mla", "mla-decode", "lm"}
        The kind of cases in which the error shows. "layer" and "decode" are those of GTA; an error of the attention
        core shows in every other kind too.
    steps : mapping of str to function
        The replaced steps of :mod:`gta_ref.verify.stepwise`.
    noise : bool
        Whether the error is one of rounding. Two implementations that round alike differ in a few elements, so that
        their errors are not equal but alike.
    suite, dtype : str
        The cases with which the self-test tests it: the usual ones, unless its error shows in others alone.
    """

    name: str
    cause: str
    stage: tuple[str, ...]
    kind: str
    steps: Mapping[str, Callable[..., Any]]
    noise: bool = False
    suite: str = "core"
    dtype: str = DTYPES[0]

    def implementation(self) -> Stepwise:
        """The wrong implementation itself; a mistake of one mechanism leaves the others right."""
        return Stepwise(self.steps, FAMILIES.get(self.kind.removesuffix("-decode")))


def wrong(kind: str, stage: str, cause: str, **steps: Callable[..., Any]) -> Mutant:
    """A mutant in which `steps` replace those of the right implementation; its name is made from the cause."""
    name = "-".join("".join(ch if ch.isalnum() else " " for ch in cause.lower()).split())
    return Mutant(name, cause, tuple(stage.split()), kind, steps)


def imprecise(kind: str, stage: str, cause: str, **steps: Callable[..., Any]) -> Mutant:
    """A mutant whose numbers are only less precise than they should be; see ``Mutant.noise``."""
    return replace(wrong(kind, stage, cause, **steps), noise=True)


def seen_in(mutant: Mutant, suite: str = "core", dtype: str = DTYPES[0]) -> Mutant:
    """A mutant whose error shows in another suite or dtype alone."""
    return replace(mutant, suite=suite, dtype=dtype)
