"""The kit catches every wrong implementation, blames the array that it makes wrong, and recognises it."""

import pytest

from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.selftest import check_mutant


def test_there_are_enough_of_every_kind():
    assert len(MUTANTS) >= 40
    assert len({m.name for m in MUTANTS}) == len({m.cause for m in MUTANTS}) == len(MUTANTS)
    kinds = [m.kind for m in MUTANTS]
    assert min(kinds.count(kind) for kind in ("attention", "layer", "decode")) >= 8
    assert sum(any(stage.startswith("d_") for stage in m.stage) for m in MUTANTS) >= 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_caught_located_and_recognised(mutant):
    report, caught, located = check_mutant(mutant)
    assert caught
    assert located, report.blame
    assert report.blame[1] == mutant.cause
    assert report.counts["error"] == 0  # a mutant computes wrong numbers without raising an error
