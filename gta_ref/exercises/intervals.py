"""The exercise of notebook 7b: an interval of paired differences, and which claims of a study it supports.

It has no number and no points, because it is not about GTA's layer. ``check_interval`` checks the reader's function as
that of any other exercise is checked; ``check_claims`` checks what the reader has concluded from a study's results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gta_ref.exercises.exercise import Exercise
from gta_ref.exercises.roundings import FEW
from gta_ref.exercises.trial import Mistake, Trial
from gta_ref.exercises.verdict import Verdict
from gta_ref.lab.summary import compare

TABLE = 0.0005  # half of the last digit of a t that was taken from a table


def _trials() -> list[Trial]:
    rng = np.random.default_rng(702)

    def trial(what: str, n: int, common: float, difference: float) -> Trial:
        """Losses whose part `common` depends on the seed alone."""
        seeds = 1.4 + common * rng.standard_normal(n)
        losses, baseline = (seeds + 0.01 * rng.standard_normal(n) for _ in range(2))
        return Trial(f"{what}; {n} seeds", (losses + difference, baseline))

    return [
        trial("pairing helps: both arms have good and bad seeds in common", 3, 0.05, 0.02),
        trial("the first arm has the lower loss", 3, 0.03, -0.04),
        trial("more seeds", 5, 0.03, 0.0),
        trial("pairing does not help", 10, 0.0, 0.01),
        trial("as few seeds as possible", 2, 0.02, 0.01),
    ]


def _truth(losses: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    return np.array(compare(losses.tolist(), baseline.tolist())["interval"])


def _roundings(losses: np.ndarray, baseline: np.ndarray) -> float:
    """Those of a difference of losses, and a t that has three decimals."""
    n = len(losses)
    size = float(np.abs(losses).max() + np.abs(baseline).max())
    return FEW * n * size + TABLE * _paired(losses, baseline) / float(np.finfo(np.float64).eps)


Rule = Callable[[np.ndarray, np.ndarray], float]


def _t(freedom: float, share: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(share, freedom))


def _paired(a: np.ndarray, b: np.ndarray) -> float:
    return float((a - b).std(ddof=1) / math.sqrt(len(a)))


def _unpaired(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Welch's degrees of freedom, for two independent arms of unequal variance."""
    one, other = a.var(ddof=1), b.var(ddof=1)
    return float((one + other) ** 2 * (len(a) - 1) / (one**2 + other**2))


def _by(half: Rule, sign: int = 1) -> Any:
    """The interval with another half-width."""

    def answer(losses: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        mean, width = sign * float((losses - baseline).mean()), half(losses, baseline)
        return np.array([mean - width, mean + width])

    return answer


def _right(a: np.ndarray, b: np.ndarray) -> float:
    return _t(len(a) - 1) * _paired(a, b)


_UNPAIRED = (
    "the standard error is that of two independent arms, √(s_a²/n + s_b²/n); runs with the same seed see the same "
    "batches, so take the differences seed by seed, and the standard deviation of those"
)
_Z = (
    "1.96 is used, the normal distribution's quantile, although s_d is estimated from a few seeds; Student's t with "
    "n − 1 degrees of freedom is 4.30 for 3 seeds"
)
INTERVAL = Exercise(
    name="interval",
    function="interval",
    parameters="losses, baseline",
    results={"interval": "2"},
    trials=_trials,
    truth=_truth,
    roundings=_roundings,
    mistakes=(
        Mistake(_UNPAIRED, _by(lambda a, b: _t(len(a) - 1) * _unpaired(a, b))),
        Mistake(_UNPAIRED, _by(lambda a, b: _t(2 * len(a) - 2) * _unpaired(a, b))),
        Mistake(_UNPAIRED, _by(lambda a, b: _t(_welch(a, b)) * _unpaired(a, b))),
        Mistake(f"{_UNPAIRED}. And {_Z}", _by(lambda a, b: 1.96 * _unpaired(a, b))),
        Mistake(_Z, _by(lambda a, b: 1.96 * _paired(a, b))),
        Mistake(_Z, _by(lambda a, b: 2.0 * _paired(a, b))),
        Mistake("t is 4.30 whatever the number of seeds; it depends on n − 1", _by(lambda a, b: _t(2) * _paired(a, b))),
        Mistake("t has n degrees of freedom; it has n − 1, because the mean is estimated too",
                _by(lambda a, b: _t(len(a)) * _paired(a, b))),
        Mistake("t is the quantile of 0.95, which leaves 5 % on each side; a 95 % interval needs that of 0.975",
                _by(lambda a, b: _t(len(a) - 1, 0.95) * _paired(a, b))),
        Mistake("the standard deviation is divided by n, as by NumPy's default; std(ddof=1) divides by n − 1",
                _by(lambda a, b: _t(len(a) - 1) * float((a - b).std()) / math.sqrt(len(a)))),
        Mistake("s_d is not divided by √n: that is the spread of single seeds, not the precision of their mean",
                _by(lambda a, b: _right(a, b) * math.sqrt(len(a)))),
        Mistake("s_d is divided by n; the standard error of a mean is s_d/√n",
                _by(lambda a, b: _right(a, b) / math.sqrt(len(a)))),
        Mistake("the half-width is the standard error alone; it has to be multiplied by t", _by(_paired)),
        Mistake("the variance is used where the standard deviation belongs",
                _by(lambda a, b: _t(len(a) - 1) * float((a - b).var(ddof=1)) / math.sqrt(len(a)))),
        Mistake("the difference is baseline − losses; it should be losses − baseline", _by(_right, -1)),
        Mistake("these are the smallest and the largest difference; that is the range of the seeds, not an interval of "
                "their mean", lambda a, b: np.array([(a - b).min(), (a - b).max()])),
        Mistake("this is the mean and the half-width; the ends are mean − half-width and mean + half-width",
                lambda a, b: np.array([(a - b).mean(), _right(a, b)])),
        Mistake("this is an interval of the first arm's loss; it should be one of the difference",
                lambda a, b: _by(_right)(a, 0 * a)),
    ),
)  # fmt: skip


class Claim(NamedTuple):
    """A claim about two arms of the study `mechanisms`, and from which intervals of their difference it follows."""

    arms: tuple[str, str]
    kind: str  # higher, lower, equal, at most
    margin: float = 0.0

    def follows(self, low: float, high: float) -> bool:
        """Whether an interval supports the claim. That two arms are equal follows from none."""
        return {"higher": low > 0, "lower": high < 0, "equal": False, "at most": high < self.margin}[self.kind]


CLAIMS: Mapping[str, Claim] = {
    "a": Claim(("gva", "gqa"), "higher"),
    "b": Claim(("gta", "gha"), "lower"),
    "c": Claim(("gta", "gqa"), "equal"),
    "d": Claim(("gta", "gqa"), "at most", 0.05),
}


def check_interval(function: Callable[..., Any]) -> Verdict:
    """Check a function ``interval(losses, baseline)`` that returns the two ends of a paired 95 % interval.

    Parameters
    ----------
    function : callable
        Its arguments are the losses of two arms, (n,), one per seed.

    Returns
    -------
    Verdict
    """
    return INTERVAL.examine(function)


def check_claims(supported: Mapping[str, bool | None], study: Mapping[str, Any]) -> Verdict:
    """Check which of the claims "a" to "d" a reader takes to be supported.

    Parameters
    ----------
    supported : mapping of str to bool or None
        The reader's decision on each claim; None is no decision yet.
    study : mapping
        The summary of the study `mechanisms`.

    Returns
    -------
    Verdict
    """
    for letter, claim in CLAIMS.items():
        answer = supported.get(letter)
        if answer not in (True, False):
            return Verdict("claims", False, f"Claim {letter}: write True if the study supports it, else False.")
        one, other = (np.asarray(study["arms"][arm]["loss"]) for arm in claim.arms)
        low, high = map(float, _truth(one, other))
        if bool(answer) != claim.follows(low, high):
            interval = f"the interval of {claim.arms[0]} − {claim.arms[1]} is [{low:+.3f}, {high:+.3f}]"
            return Verdict("claims", False, f"Claim {letter}: {interval}. {_why(claim, low, high, one, other)}")
    return Verdict("claims", True, "All four decisions agree with the intervals.")


def _why(claim: Claim, low: float, high: float, one: np.ndarray, other: np.ndarray) -> str:
    """Why a decision is wrong, and the usual mistake if it leads there."""
    if claim.kind == "equal":
        return (
            "It contains 0, so the study shows no difference; that is not the same as showing that there is none. It "
            f"agrees with a difference of {low:+.3f} or of {high:+.3f} as well as with 0."
        )
    if claim.kind == "at most":
        side = "below" if high < claim.margin else "above"
        return f"Its upper end is {side} {claim.margin:g}. To bound a difference, an interval need not exclude 0."
    excluded = low > 0 or high < 0
    said = f"It lies {'above' if low > 0 else 'below'} 0 as a whole." if excluded else "It contains 0."
    half_widths = {
        "1.96 in place of Student's t": 1.96 * _paired(one, other),
        "the standard error of two independent arms": _t(2 * len(one) - 2) * _unpaired(one, other),
    }
    mean = abs(float((one - other).mean()))
    misled = [name for name, half in half_widths.items() if (mean > half) != excluded]
    return f"{said} (With {' or '.join(misled)} it would{' not' * (not excluded)} contain 0.)" if misled else said
