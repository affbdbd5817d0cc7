"""The two criteria for a stage of a model: each row's worst element, and the root of the mean square of all."""

import numpy as np
import pytest

from gta_ref.verify.models.budget import BITS, Budget

EXACT = np.random.default_rng(0).uniform(-1, 1, (40, 64))
EXACT[:, 0] = 1.0  # the largest element of every row, whose ulp is 2^-BITS
PLAIN = EXACT + np.random.default_rng(1).uniform(-1e-3, 1e-3, EXACT.shape)
PLAIN[:, 1] = EXACT[:, 1] + 1e-3  # the worst error of every row


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1), ("bfloat16", 1), ("float64", 2.0**-29)])
def test_a_row_may_be_off_by_four_errors_and_two_ulp(dtype, scale):
    budget = Budget(EXACT, [EXACT, PLAIN], dtype)
    bound = 4e-3 * scale + 2 * 2.0 ** -BITS[dtype]
    np.testing.assert_allclose(budget.rows, bound, rtol=1e-12)
    x = EXACT.copy()
    x[3, 5] += 0.9 * bound
    assert budget.ratio(x) == pytest.approx(0.9, rel=1e-3)
    x[3, 5] = EXACT[3, 5] + 1.1 * bound
    assert budget.ratio(x) == pytest.approx(1.1, rel=1e-3)


def test_many_small_errors_are_too_much():
    budget = Budget(EXACT, [PLAIN], "float32")
    x = EXACT + 0.9 * budget.rows * np.sign(EXACT)
    assert budget.ratios(x).max() < 1
    assert budget.ratio(x) > 1
    assert budget.ratio(2 * PLAIN - EXACT) == pytest.approx(1, rel=1e-3)


def test_rows_have_budgets_of_their_own():
    large = EXACT.copy()
    large[0] *= 1e4
    budget = Budget(large, [large + (PLAIN - EXACT)], "float32")
    assert budget.rows[0, 0] > 2 * 2.0 ** (13 - 23)
    np.testing.assert_allclose(budget.rows[1:], 4e-3 + 2 * 2.0**-23)


def test_other_numbers_have_the_same_budget_or_a_larger_one():
    budget = Budget(EXACT, [PLAIN], "float32")
    np.testing.assert_allclose(budget.around(EXACT / 2).rows, budget.rows)
    np.testing.assert_allclose(budget.around(8 * EXACT).rows, 8 * budget.rows)
    assert budget.around(PLAIN).ratio(PLAIN) == 0


def test_nan_and_other_shapes_are_infinitely_far():
    budget = Budget(EXACT, [PLAIN], "float32")
    assert budget.ratio(np.where(EXACT == 1.0, np.nan, EXACT)) == float("inf")
    assert budget.ratio(EXACT[:2]) == float("inf")
