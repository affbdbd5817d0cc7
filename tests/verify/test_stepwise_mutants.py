"""Every wrong layer or model first goes wrong in the array that it names, and no two compute the same numbers."""

from functools import cache

import numpy as np
import pytest

from gta_ref.verify.cases import suite
from gta_ref.verify.mutants import headwise, lm, mla
from gta_ref.verify.stepwise.dispatch import Stepwise
from gta_ref.verify.truth import draw, wide

LEVEL = {"headwise": "layer", "mla": "layer", "lm": "lm"}


@cache
def problems(kind):
    """The settings and inputs of the cases of a kind of mutants, and what the right steps compute."""
    found = []
    for case in suite("core", "float64"):
        settings = {"level": case.level, **case.settings}
        mechanism = (
            "headwise" if settings.get("mechanism") in ("mha", "gqa", "gva", "gha") else settings.get("mechanism")
        )
        if case.level == LEVEL[kind] and (kind == "lm" or kind == mechanism):
            problem = draw(case, "float64")
            inputs = wide(problem.inputs)
            right = Stepwise()(inputs, settings)
            order = [name for name in problem.compute(inputs) if name in right]
            found.append((settings, inputs, {name: right[name] for name in order}))
    return found


def first_wrong(got, right):
    """The first array that is another, by more than rounding."""
    for name, x in right.items():
        if got[name].shape != x.shape or np.abs(got[name] - x).max(initial=0.0) > 1e-9 * np.abs(x).max(initial=1e-9):
            return name
    return None


@pytest.mark.parametrize("module", [headwise, mla, lm], ids=["headwise", "mla", "lm"])
def test_each_is_wrong_where_it_says_and_in_its_own_way(module):
    numbers = {}
    for mutant in module.MUTANTS:
        wrong_in, found = set(), []
        for settings, inputs, right in problems(module.__name__.rpartition(".")[2]):
            got = mutant.implementation()(inputs, settings)
            wrong_in.add(first_wrong(got, right))
            found += [got[name].round(7).tobytes() for name in right]
        assert wrong_in - {None}, mutant.cause
        assert wrong_in - {None} <= set(mutant.stage), (mutant.cause, wrong_in)
        same = numbers.setdefault(hash(tuple(found)), mutant.cause)
        assert same == mutant.cause


def test_a_mistake_of_one_mechanism_leaves_the_others_right():
    mutant = next(m for m in mla.MUTANTS if "RMSNorm of the latent missing" in m.cause)
    for settings, inputs, right in problems("headwise"):
        assert first_wrong(mutant.implementation()(inputs, settings), right) is None
