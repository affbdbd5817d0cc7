"""What a mutant is: a wrong implementation, which is the right one with one step replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gta_ref.verify.stepwise.dispatch import Stepwise


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
    kind : {"attention", "layer", "decode"}
        The kind of cases in which the error shows.
    steps : mapping of str to function
        The replaced steps of :mod:`gta_ref.verify.stepwise`.
    """

    name: str
    cause: str
    stage: tuple[str, ...]
    kind: str
    steps: Mapping[str, Callable[..., Any]]

    def implementation(self) -> Stepwise:
        """The wrong implementation itself."""
        return Stepwise(self.steps)


def wrong(kind: str, stage: str, cause: str, **steps: Callable[..., Any]) -> Mutant:
    """A mutant in which `steps` replace those of the right implementation; its name is made from the cause."""
    name = "-".join("".join(ch if ch.isalnum() else " " for ch in cause.lower()).split()[:8])
    return Mutant(name, cause, tuple(stage.split()), kind, steps)
