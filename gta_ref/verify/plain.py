"""The plain computation in the precision of a case, in several orders of summation, and how far it is from the truth.

In float32 and 16 bits the computation is that of the reference. Its matrix products are computed in four orders: by
BLAS, term by term, in blocks, and term by term with one operand scaled by log₂ e, as for exp2. For 16-bit dtypes a
further computation rounds the operands and the result of every product to 16 bits, as eager code does; and with
``products="tf32"`` two more round the operands to the 10 bits of TF32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gta_ref.ops.arrays import STORAGE_DTYPES, as_dtype, widen
from gta_ref.ops.products import Product, products_by, watched
from gta_ref.verify.truth import Problem

PRODUCTS = ("tf32",)
LOG2E = float(np.log2(np.e))


@dataclass
class Errors:
    """How far one array is from the truth.

    Attributes
    ----------
    largest : float
        The largest error of an element, over all computations.
    rms : float
        The largest root-mean-square error, over all computations.
    slope : float
        The largest |slope − 1| of :func:`slope`, over all computations.
    fine, fine_rms : float
        As `largest` and `rms`, over the computations with products in float32 or float64.
    """

    largest: float = 0.0
    rms: float = 0.0
    slope: float = 0.0
    fine: float = 0.0
    fine_rms: float = 0.0

    def add(self, got: np.ndarray, want: np.ndarray, fine: bool) -> None:
        """Take one more computation into account."""
        largest, mean = largest_difference(got, want), rms_difference(got, want)
        self.largest, self.rms = max(self.largest, largest), max(self.rms, mean)
        self.slope = max(self.slope, abs(slope(got, want) - 1))
        if fine:
            self.fine, self.fine_rms = max(self.fine, largest), max(self.fine_rms, mean)


def plain_errors(problem: Problem, truth: Mapping[str, np.ndarray], products: str | None = None) -> dict[str, Errors]:
    """The errors of each array over all orders, in the problem's dtype."""
    fine: list[Product] = [np.matmul, one_by_one, blocked, scaled(LOG2E)]
    if "whole" in problem.case.settings:
        fine += [scaled(factor) for factor in (0.7, 1.1, 1.3)]
    coarse: list[Product] = [rounded(problem.dtype)] if problem.dtype in STORAGE_DTYPES else []
    if products == "tf32":
        coarse += [tf32(nearest=True), tf32(nearest=False)]
    runs = [(problem.compute, product) for product in fine + coarse]
    runs += [(compute, np.matmul) for compute in problem.nearby]
    errors = {name: Errors() for name in truth}
    inputs = {name: x if x.dtype.kind in "iu" else watched(x) for name, x in problem.inputs.items()}
    for compute, product in runs:
        with products_by(product), np.errstate(over="ignore", invalid="ignore"):
            found = compute(inputs)
        for name, exact in truth.items():
            errors[name].add(np.asarray(found[name]), exact, product in fine)
    return errors


def one_by_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A matrix product that adds its terms one by one."""
    total = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    for i in range(a.shape[-1]):
        total += a[..., i : i + 1] * b[..., i : i + 1, :]
    return total


def scaled(factor: float) -> Product:
    """:func:`one_by_one` with one operand scaled; by log₂ e for kernels that compute exp as exp2.

    Whole numbers are then rounded like any others. Their own sums have no error, and their few different terms make the
    error of one factor a matter of chance.
    """

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        one = a.dtype.type(factor)
        return np.asarray(one_by_one(a * one, b) / one)

    return product


def blocked(a: np.ndarray, b: np.ndarray, size: int = 16) -> np.ndarray:
    """A matrix product that sums blocks of the inner dimension separately."""
    total: np.ndarray = a[..., :size] @ b[..., :size, :]
    for start in range(size, a.shape[-1], size):
        total = total + a[..., start : start + size] @ b[..., start : start + size, :]
    return total


def rounded(dtype: str) -> Product:
    """A matrix product whose operands and result are rounded to 16 bits, as in eager code without float32 inside."""
    low = as_dtype(dtype)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide_a, wide_b = (widen(x.astype(low)) for x in (a, b))
        return (wide_a @ wide_b).astype(low).astype(a.dtype)

    return product


def tf32(nearest: bool) -> Product:
    """A matrix product of operands with TF32's 10 bits, rounded to the nearest or cut off, as hardware does either."""

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        cut_a, cut_b = (to_tf32(x, nearest) for x in (a, b))
        return np.asarray(cut_a @ cut_b, a.dtype)

    return product


def to_tf32(x: np.ndarray, nearest: bool = True) -> np.ndarray:
    """The array in float32 with 10 explicit bits of mantissa instead of 23."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    if nearest:
        bits = bits + np.uint32(1 << 12)
    cut: np.ndarray = (bits & np.uint32(0xFFFFE000)).view(np.float32)
    return cut


def largest_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest |got − want| where both are finite; 0 for empty arrays."""
    both = np.isfinite(want) & np.isfinite(got)
    return float(np.abs(got[both].astype(np.float64) - want[both]).max(initial=0.0))


def rms_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Root of the mean of (got − want)² where both are finite; 0 for empty arrays."""
    both = np.isfinite(want) & np.isfinite(got)
    return rms(got[both].astype(np.float64) - want[both])


def rms(x: np.ndarray) -> float:
    """Root of the mean square; 0 for empty arrays."""
    with np.errstate(over="ignore"):  # of an implementation that is wrong by much
        return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def slope(got: np.ndarray, want: np.ndarray) -> float:
    """Slope of the regression of got on want through the origin, Σ got·want / Σ want²; 1 if want is 0."""
    both = np.isfinite(want) & np.isfinite(got)
    w = want[both]
    squares = float(np.dot(w, w))
    return float(np.dot(got[both].astype(np.float64), w)) / squares if squares > 0 else 1.0
