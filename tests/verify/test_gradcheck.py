"""The gradient checks themselves: a right gradient passes, each wrong one is detected, and one wrong element of many."""

import numpy as np
import pytest

from gta_ref.verify.gradcheck import directional_error, elementwise_error, subset_error


def function(a):
    return np.tanh(a["x"] @ a["w"])


def gradients(a, dy):
    da = dy * (1 - function(a) ** 2)
    return {"x": da @ a["w"].T, "w": a["x"].T @ da}


@pytest.fixture
def problem(rng):
    inputs = {"x": rng.standard_normal((3, 4)), "w": rng.standard_normal((4, 5))}
    return inputs, rng.standard_normal((3, 5))


def test_right_gradients_pass(problem, rng):
    inputs, dy = problem
    grads = gradients(inputs, dy)
    assert directional_error(function, inputs, dy, grads, rng) < 1e-9
    assert max(elementwise_error(function, inputs, dy, grads).values()) < 1e-9
    for subsets in (1, 3, 100):  # 100 subsets of 32 elements: some have none
        assert subset_error(function, inputs, dy, grads, rng, subsets) < 1e-9


def wrongs(grads):
    yield "factor", {**grads, "w": grads["w"] * 1.0001}
    yield "sign", {**grads, "x": -grads["x"]}
    yield "zero", {**grads, "x": np.zeros_like(grads["x"])}
    moved = grads["w"].copy()
    moved[1, 2] += 1e-4 * np.abs(moved).max()
    yield "one element", {**grads, "w": moved}


def test_wrong_gradients_are_seen(problem, rng):
    inputs, dy = problem
    for kind, wrong in wrongs(gradients(inputs, dy)):
        assert directional_error(function, inputs, dy, wrong, rng) > 1e-6, kind
        assert subset_error(function, inputs, dy, wrong, rng, 3) > 1e-6, kind
        errors = elementwise_error(function, inputs, dy, wrong)
        changed = "x" if kind in ("sign", "zero") else "w"
        assert errors[changed] > 0.9e-4, kind
        assert errors["w" if changed == "x" else "x"] < 1e-9, kind


def test_inputs_are_not_written(problem, rng):
    inputs, dy = problem
    for a in inputs.values():
        a.flags.writeable = False
    directional_error(function, inputs, dy, gradients(inputs, dy), rng)
    elementwise_error(function, inputs, dy, gradients(inputs, dy))
    subset_error(function, inputs, dy, gradients(inputs, dy), rng, 2)


def mean_of_equals(a):
    """A weighted mean of values that may all be equal; its weights, computed from `w`, do not matter then."""
    weights = np.exp(a["w"])
    return weights / weights.sum() @ np.broadcast_to(a["v"], (len(a["w"]), a["v"].shape[-1]))


@pytest.mark.parametrize("claimed, seen", [(0.0, False), (1e-17, False), (1e-6, True)])
def test_a_gradient_that_is_zero(claimed, seen, rng):
    """If a gradient is 0, the rounding that is left of it in the claim and the measurement is not an error."""
    inputs = {"w": rng.standard_normal(7), "v": rng.standard_normal((1, 5))}
    dy = rng.standard_normal(5)
    grads = {"w": np.full(7, claimed), "v": dy[None]}
    assert directional_error(mean_of_equals, inputs, dy, grads, rng, along=["v"]) < 1e-9
    assert (directional_error(mean_of_equals, inputs, dy, grads, rng, along=["w"]) > 1e-9) == seen


def test_one_input_alone_is_held_to_the_size_of_all(problem, rng):
    inputs, dy = problem
    grads = gradients(inputs, dy)
    wrong = {**grads, "w": grads["w"] * 1.0001}
    assert directional_error(function, inputs, dy, wrong, rng, along=["x"]) < 1e-9
    assert directional_error(function, inputs, dy, wrong, rng, along=["w"]) > 1e-6
    assert directional_error(function, inputs, dy, grads, rng, along=["w", "x"]) < 1e-9
    with pytest.raises(ValueError, match=r"along=\['q'\] are not inputs; expected some of x, w"):
        directional_error(function, inputs, dy, grads, rng, along=["q"])


def test_zero_claimed_of_everything(problem, rng):
    inputs, dy = problem
    nothing = {name: np.zeros_like(x) for name, x in inputs.items()}
    assert directional_error(function, inputs, dy, nothing, rng) == 1
    assert directional_error(lambda a: np.zeros((3, 5)), inputs, dy, nothing, rng) == 0
    assert subset_error(function, inputs, dy, nothing, rng, 2) == 1
    assert subset_error(lambda a: np.zeros((3, 5)), inputs, dy, nothing, rng, 2) == 0


def test_one_wrong_element_of_thousands(rng):
    """One element of 12,000 is wrong by what the docstring promises to find; a single direction passes it by chance."""
    inputs = {"x": rng.standard_normal((20, 100)), "w": 0.1 * rng.standard_normal((100, 100))}
    dy = rng.standard_normal((20, 100))
    grads = gradients(inputs, dy)
    sizes = {name: np.sqrt(np.mean(x * x)) for name, x in inputs.items()}
    n = sum(x.size for x in inputs.values())
    typical = np.sqrt(sum(np.sum((grads[name] * sizes[name]) ** 2) for name in inputs) / n)
    bound, subsets = 1e-7, 16
    assert subset_error(function, inputs, dy, grads, rng, subsets) < bound / 100
    # 16 subsets of 750 elements; the norm of one may be a tenth larger than that of its share
    resolution = 2.1 * 1.1 * bound * np.sqrt(n / subsets) * typical
    missed = {"subsets": 0, "one direction": 0}
    for i in range(60):
        name = "xw"[i % 2]
        at = tuple(rng.integers(0, inputs[name].shape))
        wrong = {**grads, name: grads[name].copy()}
        wrong[name][at] += resolution / sizes[name]
        missed["subsets"] += subset_error(function, inputs, dy, wrong, rng, subsets) <= bound
        missed["one direction"] += directional_error(function, inputs, dy, wrong, rng) <= bound
    assert missed["subsets"] == 0
    assert missed["one direction"] > 20
