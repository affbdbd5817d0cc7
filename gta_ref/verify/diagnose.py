"""Recognise the cause of wrong numbers: find a known wrong implementation that computes the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from gta_ref.verify.compare import Finding, compare_one
from gta_ref.verify.mutants.mutant import Mutant
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.truth import wide
from gta_ref.verify.vectors import Vector, make

SLACK = 4.0  # allowed difference in budgets, because a wrong implementation rounds in its own way


def applicable(vector: Vector) -> list[Mutant]:
    """The mutants that can run a case, the most specific first.

    Mutants of the attention core can run any attention case and any GTA layer, those of a layer only GTA layers.
    """
    settings = vector.settings
    if settings["level"] == "attention":
        return [m for m in MUTANTS if m.kind == "attention"]
    if settings["level"] != "layer" or settings["mechanism"] != "gta":
        return []
    kind = "decode" if settings.get("chunks") else "layer"
    kinds = ("decode", "layer", "attention") if kind == "decode" else ("layer", "attention")
    return [m for one in kinds for m in MUTANTS if m.kind == one]


def cause(vector: Vector, given: Mapping[str, np.ndarray], findings: list[Finding]) -> str | None:
    """Find the known cause that explains the wrong arrays in `given`; None if there is none.

    A cause is named only if its mutant computes the same first wrong array. If several do, the one that explains the
    most of the wrong arrays is named.
    """
    wrong = [f for f in findings if f.kind in ("value", "nonfinite", "shape")]
    if not wrong:
        return None
    best, explained = None, 0
    for mutant in applicable(vector):
        numbers = _numbers(mutant.name, vector)
        agree = [
            f.name for f in wrong if f.name in numbers and _explains(given[f.name], numbers[f.name], vector, f.name)
        ]
        if agree and agree[0] == wrong[0].name and len(agree) > explained:
            best, explained = mutant.cause, len(agree)
    return best


def _explains(got: np.ndarray, numbers: np.ndarray, vector: Vector, name: str) -> bool:
    """Whether the mutant's numbers equal the given ones and differ from the truth."""
    budget = SLACK * vector.budgets[name]

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return compare_one(name, x, y, budget, x.dtype.name, strict=False).kind == "ok"

    return same(got, numbers) and not same(numbers, vector.expected[name])


def _numbers(mutant: str, vector: Vector) -> Mapping[str, np.ndarray]:
    """The mutant's arrays for the inputs of a vector; cached if they are the standard inputs of the case."""
    try:
        made = make(vector.case.name, vector.dtype).inputs
    except ValueError:  # the case exists only in a file
        return _run(mutant, vector)
    if made is vector.inputs or _same(made, vector.inputs):
        return _cached(mutant, vector.case.name, vector.dtype)
    return _run(mutant, vector)


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(x.tobytes() == b[name].tobytes() for name, x in a.items())


@lru_cache(maxsize=4096)
def _cached(mutant: str, case: str, dtype: str) -> Mapping[str, np.ndarray]:
    return _run(mutant, make(case, dtype))


def _run(name: str, vector: Vector) -> Mapping[str, np.ndarray]:
    mutant = next(m for m in MUTANTS if m.name == name)
    try:
        return mutant.implementation()(wide(vector.inputs), vector.settings)
    except (ValueError, KeyError, IndexError):  # a mutant that cannot run this case does not explain it
        return {}
