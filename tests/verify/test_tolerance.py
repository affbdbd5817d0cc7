"""What is allowed is small enough that senseless and systematically wrong results fail, and that right ones pass."""

import numpy as np
import pytest

from gta_ref.ops import as_dtype
from gta_ref.verify import cases, vectors
from gta_ref.verify.compare import compare
from gta_ref.verify.plain import blocked, one_by_one, rounded, to_tf32
from gta_ref.verify.terms import largest_terms
from gta_ref.verify.tolerance import SENSELESS, DullCaseError, check_sharp, ulp
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
    with pytest.raises(DullCaseError, match=r"for z is only .* budgets off; expected at least 10"):
        check_sharp(problem.required, truth, budget)


@pytest.mark.parametrize("kind", SENSELESS)
def test_senseless_results_fail_by_ten_budgets(kind):
    for case in cases.suite("attention", "bfloat16"):
        if "padding" in case.tags or case.settings["sizes"]["N_k"] > 100:
            continue  # the others are enough
        vector = vectors.make(case.name, "bfloat16")
        for name in vector.required:
            exact = vector.expected[name]
            if np.abs(SENSELESS[kind](exact) - exact).max(initial=0) <= 1e-6 * np.abs(exact).max(initial=0):
                continue  # the senseless result is the truth here: one token, or no visible key
            given = {name: SENSELESS[kind](exact).astype(vector.inputs["q"].dtype)}
            (finding,) = compare(vector, given, wanted=())
            assert finding.kind == "value", case.name
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
    problem = draw(cases.find("attention/heads-differ"), "float16")
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


def test_tf32_has_ten_bits():
    x = np.float32(1 + 2.0**-10 + 2.0**-12)
    assert to_tf32(np.array([x]), nearest=False)[0] == to_tf32(np.array([x]))[0] == np.float32(1 + 2.0**-10)
    assert to_tf32(np.array([np.float32(1 + 2.0**-11)]))[0] == np.float32(1 + 2.0**-10)  # halfway: away from 0
    assert np.isposinf(to_tf32(np.array([np.inf], "float32")))


def test_products_in_tf32_pass_where_they_are_declared():
    """Operands with 10 bits fail by hundreds of budgets of float32, and pass the declared level's."""
    problem = draw(cases.find("attention/plain"), "float32")
    arrays = {name: to_tf32(x) if name in ("q", "k", "v", "d_z") else x for name, x in problem.inputs.items()}
    given = {name: np.asarray(x, "float32") for name, x in problem.compute(arrays).items()}
    strict = {f.name: f for f in compare(vectors.make("attention/plain", "float32"), given)}
    assert strict["z"].kind == "value"
    assert strict["z"].ratio > 20
    declared = vectors.make("attention/plain", "float32", products="tf32")
    assert {f.kind for f in compare(declared, given)} == {"ok"}
    wrong = {name: x * np.float32(1.02) for name, x in given.items()}
    assert {f.kind for f in compare(declared, wrong)} != {"ok"}
    with pytest.raises(ValueError, match=r"products='tf32' needs dtype='float32', got 'bfloat16'"):
        vectors.make("attention/plain", "bfloat16", products="tf32")
    with pytest.raises(ValueError, match="products='fp8' must be one of 'tf32'"):
        vectors.make("attention/plain", "float32", products="fp8")


def test_far_positions_allow_angles_in_float32_but_not_in_16_bits():
    """Frequencies of float32 move an angle of 5000 by 1e-4; those of 16 bits by whole turns."""
    for dtype in ("float32", "bfloat16"):
        vector = vectors.make("layer/gta-far-positions", dtype)
        config, p = vector.settings["config"], vector.inputs["positions"]
        frequency = np.float32(1) / np.float32(10000) ** (
            np.arange(0, config["head_dim"], 2, "float32") / np.float32(8)
        )
        for cast, kind in (("float32", "ok"), ("float16", "value"), ("bfloat16", "value")):
            angle = (p[..., None].astype(as_dtype(cast)) * frequency.astype(as_dtype(cast))).astype("float32")
            (found,) = compare(vector, {"cos": np.cos(angle)}, wanted=())
            assert found.kind == kind, (dtype, cast, found)
    assert config.get("rope_theta", 10000) == 10000
