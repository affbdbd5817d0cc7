"""The kit catches every wrong implementation, blames the array that it makes wrong, and recognises it.

``gta-ref verify --self-test`` does this for all of them; here every fourth is tested, of each kind.
"""

from collections import Counter

import pytest

from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.selftest import check_mutant

KINDS = ("attention", "layer", "decode", "headwise", "headwise-decode", "mla", "mla-decode", "lm")
# the cases of the suite "tiles" are large: the self-test alone runs them
SOME = [mutant for kind in KINDS for mutant in [m for m in MUTANTS if m.kind == kind and m.suite == "core"][::4]]


def test_there_are_enough_of_every_kind():
    assert len(MUTANTS) >= 150
    assert len({m.name for m in MUTANTS}) == len({m.cause for m in MUTANTS}) == len(MUTANTS)
    kinds = Counter(m.kind for m in MUTANTS)
    assert kinds.keys() == set(KINDS)
    assert min(kinds.values()) >= 3
    assert sum(any(stage.startswith("d_") for stage in m.stage) for m in MUTANTS) >= 40


@pytest.mark.parametrize("mutant", SOME, ids=lambda m: m.name)
def test_caught_located_and_recognised(mutant):
    verdict = check_mutant(mutant)
    assert verdict.caught
    assert verdict.located, verdict.report.blame
    assert verdict.recognised, verdict.report.blame
    assert not verdict.misled
    assert verdict.report.counts["error"] == 0  # a mutant computes wrong numbers without raising an error
