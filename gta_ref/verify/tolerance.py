"""How far from the truth a right implementation may be, derived for each array of each case.

The largest error of an element has a budget in every dtype:

    budget = c·E + 2 ulp(S)

E is the worst error of the plain computation in the same precision over several orders of summation, measured when the
case is made (:mod:`gta_ref.verify.plain`). In float64, for which there is no more precise truth, it is the E of float32
scaled by 2⁻²⁹. S is the largest term that enters the array, not the largest result, because terms can cancel to exactly
0 and still leave their rounding in the result. If all elements of an array do, 2 ulp become 8. c is 2 for a forward
array and 3 for a gradient.

Rounding errors of 16 bits are so large that the maximum alone hides a systematic error. With products of 16 bits or
TF32, two more criteria look at all elements of each required array together:

    rms of the error  ≤ (c' + 4/√n) R                 R: the largest rms error of the plain computations
    |slope − 1|       ≤ a + 2b + 4r/√n                slope: of the regression of the array on the truth

Roundings are independent of each other, so that the rms of right code is close to R, and the slope close to 1: its
deviation is that of a mean of n terms whose relative size is r = R / rms(truth). Errors within a row depend on each
other, because they share the errors of its weights; n is therefore (Σ w²)² / Σ w⁴ with w² the sum of the squares of
each row of the truth, the number of equally large rows that would vary as much. b is the largest deviation of a plain
computation, and a that of the factor on the scores if it is rounded to 16 bits. c' is 3/2 for a forward array and 5/2
for a gradient, because the softmax's backward subtracts two numbers that each may have been rounded. An array whose rms
is less than ulp(S) cancels to 0; for this array only the maximum counts.

lse is judged in the precision in which it comes: if it is more precise than 16 bits, E is that of products in float32,
and the ulp are four of float32, because lse = (maximum + log₂ of the sum) · ln 2 rounds as often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.ops.arrays import STORAGE_DTYPES, as_dtype
from gta_ref.verify.plain import PRODUCTS, Errors, largest_difference, plain_errors, rms
from gta_ref.verify.terms import largest, largest_terms, scale_of
from gta_ref.verify.truth import Problem, draw, wide

GARBAGE = 10.0  # number of budgets by which a senseless result must be off
MANTISSA = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "tf32": 10}  # explicit bits


class DullCaseError(ValueError):
    """Raised for a case in which a senseless result would pass or nearly pass."""


@dataclass(frozen=True)
class Limits:
    """What is allowed for the arrays of a case, by name.

    Attributes
    ----------
    budgets : dict of str to float
        The largest error of an element.
    rms, slopes : dict of str to float
        The root-mean-square error and |slope − 1|; only with 16-bit storage or TF32, and only of required arrays.
    singles : dict of str to float
        The budget of an array that comes in float32 or float64 although the case has 16 bits; only of lse.
    fine : dict of str to float
        The rms error of a computation with float32 inside and the case's dtype as storage, to which the report
        compares: the quality of an array is its rms error divided by this.
    """

    budgets: dict[str, float]
    rms: dict[str, float]
    slopes: dict[str, float]
    singles: dict[str, float]
    fine: dict[str, float]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain data for a file."""
        return asdict(self)


def limits(problem: Problem, truth: Mapping[str, np.ndarray], products: str | None = None) -> Limits:
    """What is allowed for every array of a case.

    Parameters
    ----------
    problem : Problem
    truth : dict of str to float64 array
    products : {"tf32"}, optional
        With "tf32", the operands of products may be rounded to TF32; only in float32. Default: full precision.
    """
    if products is not None:
        check_choice("products", products, PRODUCTS)
        if problem.dtype != "float32":
            raise ValueError(f"products={products!r} needs dtype='float32', got {problem.dtype!r}")
    dtype = problem.dtype
    if dtype == "float64":
        single = draw(problem.case, "float32", problem.seed, problem.attempt)
        errors = plain_errors(single, single.compute(wide(single.inputs)))
        unit = 2.0**-29
    else:
        errors, unit = plain_errors(problem, truth, products), 1.0
    terms = largest_terms(problem, truth)
    bits = products or dtype
    factor = {name: 3 if name.startswith("d_") else 2 for name in truth}
    found = Limits(
        {
            name: factor[name] * unit * errors[name].largest + _ulps(x, ulp(terms[name], bits))
            for name, x in truth.items()
        },
        {},
        {},
        {},
        {name: unit * errors[name].fine_rms for name in truth},
    )
    if dtype in STORAGE_DTYPES or products is not None:
        for name in problem.required:
            step, common = ulp(terms[name], bits), scale_rounding(problem)
            _add_criteria(found, name, truth[name], errors[name], step, common)
    if dtype in STORAGE_DTYPES and "lse" in truth:
        found.singles["lse"] = factor["lse"] * errors["lse"].fine + 4 * ulp(terms["lse"], "float32")
    return found


def _ulps(x: np.ndarray, step: float) -> float:
    """2 ulp(S), or 8 for an array that cancels to 0: its plain computations may all have no error by chance."""
    return (8 if rms(x[np.isfinite(x)]) <= step else 2) * step


def _add_criteria(found: Limits, name: str, x: np.ndarray, errors: Errors, step: float, common: float) -> None:
    """Add the criteria rms and slope of one array with the true values `x`; `common` is a."""
    squares = np.where(np.isfinite(x), np.square(x), 0.0)
    size = rms(x[np.isfinite(x)])
    if size <= step or errors.rms == 0:
        return
    rows = squares.sum(axis=-1) if x.ndim >= 2 else squares
    n = float(rows.sum() ** 2 / np.square(rows).sum())
    factor = 2.5 if name.startswith("d_") else 1.5
    found.rms[name] = (factor + 4 / math.sqrt(n)) * errors.rms
    found.slopes[name] = common + 2 * errors.slope + 4 * errors.rms / size / math.sqrt(n)


def scale_rounding(problem: Problem) -> float:
    """The relative error of the factor on the scores in the dtype of the case; 0 for a power of 2."""
    scale = scale_of(problem)
    return abs(float(as_dtype(problem.dtype).type(scale)) / scale - 1)


def ulp(size: float, dtype: str) -> float:
    """Unit in the last place of a number of this size: its distance from the next number in `dtype`, or in "tf32"."""
    return 2.0 ** (math.floor(math.log2(size)) - MANTISSA[dtype]) if size > 0 else 0.0


def check_sharp(required: tuple[str, ...], truth: Mapping[str, np.ndarray], budget: Mapping[str, float]) -> None:
    """Raise DullCaseError if a senseless result would pass or nearly pass, because such a case would be useless.

    Zeros, the mean over the tokens, and rows moved by one place must be off by at least ten budgets in every required
    array, unless they equal the truth.
    """
    for name in required:
        exact = truth[name]
        for kind, make in SENSELESS.items():
            error = largest_difference(make(exact), exact)
            differs = error > 1e-6 * largest(exact)
            if differs and error < GARBAGE * budget[name]:
                raise DullCaseError(
                    f"{kind} for {name} is only {error / budget[name]:.1f} budgets off; expected at least {GARBAGE:g}"
                )


def _mean(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.mean(x, axis=-2, keepdims=True), x.shape) if x.ndim >= 2 and x.size else x


SENSELESS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zeros": np.zeros_like,
    "the mean over the rows": _mean,
    "rows moved by one": lambda x: np.roll(x, 1, axis=-2) if x.ndim >= 2 else x,
}
