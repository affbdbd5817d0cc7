"""Recognise why a block or the head of a model is wrong: compute it with one known mistake, on the candidate's input.

A mistake is named only if it gives the numbers of the first wrong stage and leaves every right stage as it is; of
several, the one that explains the most of the wrong stages is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from gta_ref.ops import Array
from gta_ref.verify.models.block import Stages
from gta_ref.verify.models.budget import Budget

SLACK = 2.0  # allowed difference in budgets, because a wrong program rounds in its own way
CLOSER = 3.0  # how many times closer than the truth the numbers of a cause have to be
SCORES = "attention.scores"


class Part(Protocol):
    """A block or a head, right or wrong."""

    def run(self, x: Array) -> Stages:
        """x (B, N, H) → stages."""


class Change(NamedTuple):
    """A known mistake.

    Attributes
    ----------
    cause : str
    part : Part
        The block or head with the mistake.
    first : str or None
        The first stage that counts: those before it are computed in another way than a program would.
    """

    cause: str
    part: Part
    first: str | None = None

    def numbers(self, x: Array) -> Stages:
        """The stages with the mistake, float64."""
        stages = self.part.run(x)
        if self.first is None or self.first not in stages:
            return stages
        names = list(stages)
        return {name: stages[name] for name in names[names.index(self.first) :]}


def find(
    changes: Iterator[Change], x: Array, given: Mapping[str, Array], budgets: Mapping[str, Budget], wrong: list[str]
) -> str | None:
    """The cause that explains the wrong stages of a part, or None.

    Parameters
    ----------
    changes : iterator of Change
    x : (B, N, H), float64
        The part's input, as the candidate gave it.
    given : mapping of str to array
        The candidate's stages, float64, by their names in the part.
    budgets : mapping of str to Budget
        Around the truth.
    wrong : list of str
        The names of the wrong stages, in the order of computation.
    """
    best, most = None, (0, 0.0)
    for change in changes:
        try:
            with np.errstate(all="ignore"):
                numbers = change.numbers(x)
        except ValueError:  # this model cannot be computed in that way
            continue
        fit = _fit(numbers, given, budgets, wrong)
        if fit > most:
            best, most = change.cause, fit
    return best


def _fit(
    numbers: Stages, given: Mapping[str, Array], budgets: Mapping[str, Budget], wrong: list[str]
) -> tuple[int, float]:
    """How many wrong stages the numbers explain, and how closely (0 is exactly, less is worse).

    None if they do not explain the first wrong stage, or change one that is right.
    """
    count, distance = 0, 0.0
    for name, x in given.items():
        if name not in numbers or numbers[name].shape != x.shape:
            if name == wrong[0]:
                return 0, 0.0
            continue
        budget, found = budgets[name], numbers[name]
        if name == SCORES:  # above the diagonal they are not compared
            found = np.where(np.tri(x.shape[-1], dtype=bool), found, x)
        off = budget.around(found).ratio(x)
        same = off <= SLACK and (name not in wrong or off * CLOSER <= budget.ratio(x))
        if not same and (name == wrong[0] or name not in wrong):
            return 0, 0.0
        if same and name in wrong:
            count, distance = count + 1, distance - off
    return count, distance
