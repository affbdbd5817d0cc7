"""A model beside the original: loss, divergence and agreement against their formulas."""

import numpy as np
import pytest
from scipy import special

from gta_ref.convert import judge
from gta_ref.lm import model
from tests.convert import tiny


@pytest.fixture(scope="module")
def models():
    return tiny.converted()


def by_formula(params, config, original, ids):
    """All sequences at once."""
    p, q = (
        special.log_softmax(model.forward(some, ids, of, need_saved=False)[0], axis=-1)
        for some, of in (original, (params, config))
    )
    next_tokens = np.take_along_axis(q[:, :-1], ids[:, 1:, None], axis=-1)
    divergence = (np.exp(p) * (p - q)).sum(axis=-1).mean()
    return -next_tokens.mean(), divergence, (p.argmax(axis=-1) == q.argmax(axis=-1)).mean()


@pytest.mark.parametrize("n", [1, 4, 7, 9], ids=lambda n: f"{n} sequences")
def test_against_the_formulas(models, n):
    """Also where the last batch has fewer sequences than the others."""
    ids = tiny.windows(9, 30, held_out=True)[:n]
    found = judge.beside(*models, ids)
    expected = by_formula(*models, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert expected[1] > 0.01
    assert 0 < expected[2] < 1
    assert judge.loss(*models[:2], ids) == found.loss
    assert all(type(x) is float for x in found)


def test_the_divergence_is_from_the_original_to_the_model(models):
    """The other direction has another value."""
    params, config, original = models
    ids = tiny.windows(3, 30, held_out=True)
    there = judge.beside(params, config, original, ids).divergence
    back = judge.beside(*original, judge.Original(params, config), ids).divergence
    assert abs(there - back) > 1e-4
    assert back == pytest.approx(by_formula(*original, (params, config), ids)[1], rel=1e-12)


def test_equal_models():
    original = tiny.original()
    ids = tiny.windows(5, 30, held_out=True)
    found = judge.beside(*original, original, ids)
    assert (found.divergence, found.agreement) == (0, 1)
    assert found.loss == pytest.approx(by_formula(*original, original, ids)[0], rel=1e-12)
