"""The exercise of notebook 7b: intervals that a student may compute, and what is said to each; and the four claims."""

import json
import math
import re
import statistics

import numpy as np
import pytest
from scipy import stats

from gta_ref import course
from gta_ref.exercises.intervals import CLAIMS, check_claims, check_interval

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}  # t of 0.975, as tables print it


def half_width(rule):
    """An answer with the mean of the differences and this half-width of (differences, losses, baseline)."""

    def interval(losses, baseline):
        d = losses - baseline
        half = rule(d, losses, baseline)
        return d.mean() - half, d.mean() + half

    return interval


def quantile(n, share=0.975):
    return stats.t.ppf(share, n)


def standard(d, *_):
    return d.std(ddof=1) / math.sqrt(len(d))


def by_sums(losses, baseline):
    n = len(losses)
    d = [a - b for a, b in zip(losses, baseline, strict=True)]
    mean = sum(d) / n
    half = quantile(n - 1) * math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1) / n)
    return [mean - half, mean + half]


def by_statistics(losses, baseline):
    d = [float(x) for x in losses - baseline]
    half = quantile(len(d) - 1) * statistics.stdev(d) / len(d) ** 0.5
    return statistics.fmean(d) - half, statistics.fmean(d) + half


def by_covariance(losses, baseline):
    """The variance of a difference, from the two variances and the covariance."""
    n = len(losses)
    (a, c), (_, b) = np.cov(losses, baseline)
    half = quantile(n - 1) * np.sqrt((a + b - 2 * c) / n)
    return np.array([np.mean(losses - baseline) - half, np.mean(losses - baseline) + half])


RIGHT = {
    "numpy": half_width(lambda d, *_: quantile(len(d) - 1) * standard(d)),
    "sem": half_width(lambda d, *_: quantile(len(d) - 1) * stats.sem(d)),
    "table": half_width(lambda d, *_: TABLE[len(d) - 1] * standard(d)),
    "ttest_rel": lambda a, b: tuple(stats.ttest_rel(a, b).confidence_interval(0.95)),
    "t.interval": lambda a, b: stats.t.interval(0.95, len(a) - 1, loc=np.mean(a - b), scale=stats.sem(a - b)),
    "sums": by_sums,
    "statistics": by_statistics,
    "covariance": by_covariance,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    verdict = check_interval(RIGHT[name])
    assert verdict.passed, verdict


def unpaired(_, a, b):
    return math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))


def test_the_answer_in_the_notebook_is_right():
    text = (course.path("notebooks") / "07b_reading_a_study.py").read_text(encoding="utf-8")
    (answer,) = re.findall(r"^# ```python\n(.*?)^# ```$", text, re.MULTILINE | re.DOTALL)
    names = {"student": stats.t, "math": math}
    exec(re.sub("^# ?", "", answer, flags=re.MULTILINE), names)
    assert check_interval(names["interval"])


WRONG = {
    "unpaired": (half_width(lambda d, a, b: quantile(len(d) - 1) * unpaired(d, a, b)), ("two independent arms", "seed by")),
    "ttest_ind": (lambda a, b: tuple(stats.ttest_ind(a, b).confidence_interval()), ("two independent arms",)),
    "Welch": (lambda a, b: tuple(stats.ttest_ind(a, b, equal_var=False).confidence_interval()), ("independent arms",)),
    "unpaired, 1.96": (half_width(lambda d, a, b: 1.96 * unpaired(d, a, b)), ("two independent arms", "1.96", "4.30")),
    "1.96": (half_width(lambda d, *_: 1.96 * standard(d)), ("1.96 is used", "4.30 for 3 seeds")),
    "norm": (half_width(lambda d, *_: stats.norm.ppf(0.975) * standard(d)), ("1.96 is used",)),
    "two": (half_width(lambda d, *_: 2 * standard(d)), ("1.96 is used",)),
    "always 4.30": (half_width(lambda d, *_: 4.303 * standard(d)), ("whatever the number of seeds", "5 seeds")),
    "n degrees": (half_width(lambda d, *_: quantile(len(d)) * standard(d)), ("n degrees of freedom",)),
    "one-sided": (half_width(lambda d, *_: quantile(len(d) - 1, 0.95) * standard(d)), ("quantile of 0.95",)),
    "ddof": (half_width(lambda d, *_: quantile(len(d) - 1) * d.std() / math.sqrt(len(d))), ("std(ddof=1)",)),
    "no root": (half_width(lambda d, *_: quantile(len(d) - 1) * d.std(ddof=1)), ("not divided by √n",)),
    "by n": (half_width(lambda d, *_: quantile(len(d) - 1) * d.std(ddof=1) / len(d)), ("divided by n;",)),
    "no t": (half_width(standard), ("the standard error alone",)),
    "variance": (half_width(lambda d, *_: quantile(len(d) - 1) * d.var(ddof=1) / math.sqrt(len(d))), ("variance is used",)),
    "reversed": (lambda a, b: RIGHT["numpy"](b, a), ("baseline − losses",)),
    "range": (lambda a, b: ((a - b).min(), (a - b).max()), ("the range of the seeds",)),
    "half": (lambda a, b: ((a - b).mean(), quantile(len(a) - 1) * standard(a - b)), ("mean and the half-width",)),
    "one arm": (lambda a, b: RIGHT["numpy"](a, 0 * a), ("the first arm's loss",)),
    "ends swapped": (lambda a, b: RIGHT["numpy"](a, b)[::-1], ("values of interval are wrong",)),
    "mean alone": (lambda a, b: (a - b).mean(), ("interval has shape ()", "expected (2,)")),
    "not written": (lambda a, b: None, ("returns None",)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    function, words = WRONG[name]
    verdict = check_interval(function)
    assert not verdict.passed
    for word in words:
        assert word in verdict.hint, verdict


def test_the_library_does_not_answer():
    def interval(losses, baseline):
        from gta_ref.lab.summary import compare

        return compare(losses.tolist(), baseline.tolist())["interval"]

    verdict = check_interval(interval)
    assert not verdict.passed
    assert "compare was called" in verdict.hint


@pytest.fixture(scope="module")
def study():
    return json.loads((course.path("docs/studies") / "mechanisms.json").read_text(encoding="utf-8"))


ANSWERS = {"a": True, "b": False, "c": False, "d": True}


def test_the_right_decisions_pass(study):
    assert check_claims(ANSWERS, study).passed
    assert check_claims({letter: np.bool_(answer) for letter, answer in ANSWERS.items()}, study).passed


@pytest.mark.parametrize(
    "letter, words",
    [
        (
            "a",
            (
                "gva − gqa is [+0.009, +0.046]",
                "above 0",
                "With the standard error of two independent arms it would contain 0",
            ),
        ),
        (
            "b",
            (
                "gta − gha is [-0.066, +0.020]",
                "It contains 0",
                "With 1.96 in place of Student's t or",
                "it would not contain 0",
            ),
        ),
        ("c", ("gta − gqa is [-0.054, +0.043]", "shows no difference", "not the same as showing that there is none")),
        ("d", ("gta − gqa is [-0.054, +0.043]", "below 0.05", "need not exclude 0")),
    ],
)
def test_a_wrong_decision_names_the_usual_mistake(letter, words, study):
    verdict = check_claims({**ANSWERS, letter: not ANSWERS[letter]}, study)
    assert not verdict.passed
    assert verdict.hint.startswith(f"Claim {letter}: ")
    for word in words:
        assert word in verdict.hint, verdict


@pytest.mark.parametrize("answer", [None, "yes", 0.5, ...])
def test_no_decision_is_asked_for(answer, study):
    verdict = check_claims({**ANSWERS, "b": answer}, study)
    assert not verdict.passed
    assert verdict.hint == "Claim b: write True if the study supports it, else False."
    assert not check_claims({}, study).passed


def test_the_claims_follow_the_study(study):
    """With other losses, other claims hold."""
    losses = {arm: [1.0, 1.1, 1.2] for pair in CLAIMS.values() for arm in pair.arms}
    losses["gta"] = [1.2, 1.31, 1.39]
    verdict = check_claims(ANSWERS, {"arms": {arm: {"loss": loss} for arm, loss in losses.items()}})
    assert "gva − gqa is [+0.000, +0.000]. It contains 0." in verdict.hint
