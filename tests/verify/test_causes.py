"""The kit names no cause that is not so: for mistakes that it does not know, it names none."""

import numpy as np
import pytest

from gta_ref.verify.run import verify
from tests.verify.unknown_wrong import ABLE, WRONG, Case

# causes that say what is wrong, although these implementations go wrong in some cases in another way
TRUE = {
    "_inverted_without_bounds": (
        "mask inverted: a query sees just what it should not",
        "causal mask inverted: a query sees the later keys alone",
    ),
    "_inverted_if_padded": ("mask inverted: a query sees just what it should not",),
    "_inverted_and_itself": ("causal mask transposed: a query sees itself and the later keys",),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_false_cause(name):
    def wrong(arrays, settings):
        with np.errstate(all="ignore"):
            return WRONG[name](Case(arrays, settings))

    report = verify(wrong, "attention", "float32", ABLE, repeat=1)
    assert report.exit_status == 1
    assert report.counts["error"] == 0
    assert report.blame.cause in (None, *TRUE.get(name, ()))
    assert {result.cause for result in report.results} <= {None, *TRUE.get(name, ())}


def test_there_are_enough():
    assert len(WRONG) >= 30
