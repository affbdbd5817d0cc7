"""Which known mistake a check names, and how far off a right answer may be."""

import numpy as np
import pytest

from gta_ref.exercises import check
from gta_ref.exercises.catalogue import CATALOGUE
from gta_ref.exercises.causes import as_tuple, converter
from gta_ref.exercises.exercise import Exercise
from tests.exercises.answers import solution

ARRAYS = [name for name, exercise in CATALOGUE.items() if isinstance(exercise, Exercise)]

# --- causes ---------------------------------------------------------------------------------------------------


def test_a_cause_that_contradicts_a_right_case_is_not_named():
    """Half the bytes of MHA may be "only the keys" or "2 bytes for 4"; the case before is right for the second alone."""

    def two_bytes(model, batch, tokens, itemsize):
        return solution("ex06")(model, batch, tokens, 2)

    def once(model, batch, tokens, itemsize):
        return solution("ex06")(model, batch, tokens, 2 if itemsize == 4 else itemsize)

    hint = check("ex06", two_bytes).hint
    assert "2 bytes, whatever itemsize says" in hint
    assert "keys" not in hint.partition("Case")[0]
    assert "equals what comes out" not in check("ex06", once).hint  # a later case is right


def test_of_two_causes_the_one_that_fits_all_results_is_named():
    def latent_is_key(n_h, n_q, n_k, n_c):
        m, key, _ = solution("ex02")(n_h, n_q, n_k, n_c)
        return m, key, key

    hint = check("ex02", latent_is_key).hint
    assert "the latent head is the key head" in hint
    assert "exchanged" not in hint  # this gives the same latent heads in the first case, but other key heads


def test_numbers_that_no_mistake_gives_are_described_alone():
    right = solution("ex03")
    hint = check("ex03", lambda q, k, visible: right(q, k, visible) + 0.001).hint
    assert "equals what comes out" not in hint
    assert "values of map are wrong" in hint


# --- tolerances -----------------------------------------------------------------------------------------------


def test_a_small_error_is_seen_and_rounding_is_not():
    right = solution("ex03")
    for factor, passed in ((1 + 2**-50, True), (1 + 1e-9, False)):
        verdict = check("ex03", lambda q, k, visible, f=factor: (right(q, k, visible) * f).astype(q.dtype))
        assert verdict.passed is passed


@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("ex02", "ex06")])
def test_tolerances_are_small(name):
    """At most some thousand roundings of the largest value, or more if scores of thousands lose digits before exp."""
    exercise = CATALOGUE[name]
    for trial in exercise.trials():
        for result, one in exercise.expected(trial.arguments).items():
            largest = np.abs(one.value[np.isfinite(one.value)]).max(initial=0.0)
            roundings = 1e6 if any(word in trial.what for word in ("thousand", "1000", "300")) else 2000
            assert one.tolerance <= roundings * np.finfo(one.dtype).eps * max(1.0, largest), (trial.what, result)


@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("ex02", "ex06")])
def test_a_right_answer_gathers_fewer_roundings_than_are_counted(name):
    """The solution in float32, on inputs of every trial, is within the tolerance of float32, and above a hundredth."""
    exercise, shares = CATALOGUE[name], []
    for trial in exercise.trials():
        arguments = tuple(map(converter("float32"), trial.arguments))
        with np.errstate(over="ignore"):
            answer = as_tuple(solution(name)(*arguments))
        for got, one in zip(answer, exercise.expected(arguments).values(), strict=True):
            finite = np.isfinite(one.value)
            off = np.abs(got.astype(np.float64) - np.where(finite, one.value, 0))[finite].max(initial=0.0)
            assert off <= one.tolerance, trial.what
            shares.append(off / one.tolerance if one.tolerance else 0.0)
    assert max(shares) > 0.005


# --- the tables of mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRAYS)
def test_every_mistake_is_wrong_and_is_named(name):
    """Each mistake differs from the truth in a hidden case, and the first such case names it or an earlier mistake."""
    exercise = CATALOGUE[name]
    hints = [mistake.hint for mistake in exercise.mistakes]
    for mistake in exercise.mistakes:
        verdict = check(name, _with_parameters(exercise.parameters, mistake.answer))
        assert not verdict.passed, mistake.hint
        assert any(hint in verdict.hint for hint in hints), verdict


def _with_parameters(parameters, function):
    """The function with the parameters of the exercise, as a student's function has them."""
    return eval(f"lambda {parameters}: function({parameters})", {"function": function})


@pytest.mark.parametrize("name", ARRAYS)
def test_hidden_cases_are_odd_and_the_same_each_time(name):
    exercise = CATALOGUE[name]
    trials = exercise.trials()
    for one, other in zip(trials, exercise.trials(), strict=True):
        for x, y in zip(one.arguments, other.arguments, strict=True):
            np.testing.assert_array_equal(x, y)
    assert len({trial.what for trial in trials}) == len(trials) >= 6
    dtypes = {x.dtype.name for trial in trials for x in trial.arguments if isinstance(x, np.ndarray)}
    assert name in ("ex02", "ex06") or {"float64", "float32"} <= dtypes
