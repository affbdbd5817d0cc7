"""Budgets are small enough that every senseless result fails, and large enough for results that cancel to 0."""

import dataclasses

import numpy as np
import pytest

from gta_ref.verify import cases, vectors
from gta_ref.verify.compare import compare
from gta_ref.verify.tolerance import SENSELESS, blocked, check_sharp, largest_terms, one_by_one, rounded, ulp
from gta_ref.verify.truth import draw, wide


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_every_case_can_be_made_and_is_sharp(dtype):
    """make() refuses a case in which zeros, means or moved rows would be off by less than ten budgets."""
    for case in cases.suite("core", dtype):
        vector = vectors.make(case.name, dtype)
        assert all(np.isfinite(budget) and budget >= 0 for budget in vector.budgets.values())


def test_a_case_that_tells_nothing_apart_is_refused():
    problem = draw(cases.find("attention/plain"), "float32")
    truth = problem.compute(wide(problem.inputs))
    budget = dict.fromkeys(truth, 0.2 * np.abs(truth["z"]).max())  # zeros are off by 5 of these budgets
    with pytest.raises(ValueError, match=r"case attention/plain in float32: .* budgets off; expected at least 10"):
        check_sharp(problem, truth, budget)


@pytest.mark.parametrize("kind", SENSELESS)
def test_senseless_results_fail_by_ten_budgets(kind):
    for case in cases.suite("attention", "bfloat16"):
        vector = vectors.make(case.name, "bfloat16")
        for name in vector.required:
            exact = vector.expected[name]
            if np.abs(SENSELESS[kind](exact) - exact).max(initial=0) <= 1e-6 * np.abs(exact).max(initial=0):
                continue  # the senseless result is the truth here: one token, or no visible key
            given = {name: SENSELESS[kind](exact).astype(vector.inputs["q"].dtype)}
            (finding,) = compare(vector, given, wanted=())
            assert finding.kind == "value"
            assert finding.ratio >= 9.9  # at least ten before the result was rounded to bfloat16


def test_a_result_that_cancels_to_zero_has_a_budget():
    """At N = 1 the gradients of q and k are exactly 0, but a right implementation returns their rounding."""
    vector = vectors.make("attention/length-1", "float32")
    assert not vector.expected["d_q"].any()
    assert 1e-8 < vector.budgets["d_q"] < 1e-5


def test_orders_of_summation_are_sums():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 50)).astype("float32"), rng.standard_normal((50, 4)).astype("float32")
    exact = a.astype(float) @ b.astype(float)
    results = [a @ b, one_by_one(a, b), blocked(a, b)]
    for got in results:
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact, rtol=0, atol=2e-5)
    assert len({got.tobytes() for got in results}) == 3  # three different roundings
    coarse = rounded("bfloat16")(a, b)
    assert 1e-3 < np.abs(coarse - exact).max() < 0.5


def test_ulp_is_the_distance_to_the_neighbour():
    for size in (1.0, 1.5, 2.0, 3e-7, 1e10):
        assert ulp(size, "float32") == float(np.spacing(np.float32(size)))
        assert ulp(size, "float64") == float(np.spacing(size))
    assert ulp(0.0, "float32") == 0


def test_terms_are_those_that_enter():
    """S of d_q against its definition in loops."""
    problem = draw(dataclasses.replace(cases.find("attention/heads-differ")), "float16")
    truth = problem.compute(wide(problem.inputs))
    terms = largest_terms(problem, truth)
    p, dp, k = truth["map"], truth["d_map"], problem.inputs["k"].astype(float)
    inside = np.abs(p) * (np.abs(dp) + np.abs((p * dp).sum(-1, keepdims=True)))
    largest = 0.0
    for b, m, i, j in np.ndindex(inside.shape):
        largest = max(largest, inside[b, m, i, j] * np.abs(k[b, m // 3, j]).max())
    assert terms["d_q"] == pytest.approx(max(largest * 8**-0.5, np.abs(truth["d_q"]).max()), rel=1e-12)


def test_float64_is_held_to_float64():
    """The budgets of float64 are those of float32 divided by 2²⁹, up to the different rounding of the inputs."""
    double, single = (vectors.make("attention/heads-differ", dtype) for dtype in ("float64", "float32"))
    for name, budget in double.budgets.items():
        assert 0.3 < budget * 2.0**29 / single.budgets[name] < 3, name
