"""How far from the truth a stage of a right model may be: measured in the run, for every row of every stage.

A row is the last axis, a token's vector or a head's: in the residual stream of a trained model a few tokens are a
thousand times larger than the others, and one budget for all would let everything pass in the others. A row may be off

    4 E + 2 ulp(S)

at its worst element, where S is the row's largest element and E the worst error of the plain computation in the same
precision over several orders of summation (:func:`gta_ref.verify.models.block.plain_ways`); a row that happened to be
computed exactly is given the median of E/S. A row of few elements may be small by chance, although the terms of its
sums are not: its S is at least the median, and its E/S the largest of all rows.

Besides, the root of the mean square of all errors, each divided by its row's S, may be 2 times that of the plain
computation and an eighth of an ulp more. In float64, for which there is no more precise truth, E is that of float32
scaled by 2⁻²⁹.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from gta_ref.ops import Array
from gta_ref.verify.cases import DTYPES
from gta_ref.verify.tolerance import MANTISSA

WORST, RMS = 4.0, 2.0
NARROW = 32  # elements of a row below which one row says little about the size of its terms
BITS = {dtype: MANTISSA[dtype] for dtype in DTYPES}
_TINY = {"float64": 2.0**-1074, "float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}


class Budget:
    """The budget of one stage.

    Parameters
    ----------
    exact : (..., width), float64
        The truth.
    plain : sequence of arrays of the same shape
        What right computations in the dtype gave.
    dtype : str
        The dtype of the results that are judged.
    terms : (..., 1), optional
        The size of the terms whose sums the rows hold, if they may cancel in a whole row.
    """

    def __init__(self, exact: Array, plain: Sequence[Array], dtype: str, terms: Array | None = None) -> None:
        self.exact = exact
        scaled = 2.0**-29 if dtype == "float64" else 1.0
        self.size = np.abs(exact).max(axis=-1, keepdims=True, initial=0.0)  # S, (..., 1)
        if terms is not None:
            self.size = np.maximum(self.size, terms)
        error = np.zeros_like(self.size)
        differences = []
        for found in plain:
            difference = np.abs(found.astype(np.float64) - exact)
            difference = np.where(np.isfinite(difference), difference, 0.0) * scaled
            error = np.maximum(error, difference.max(axis=-1, keepdims=True, initial=0.0))
            differences.append(difference)
        some = self.size[..., 0] > 0
        share = 0.0
        if some.any():
            narrow = exact.shape[-1] < NARROW
            if narrow:
                self.size = np.maximum(self.size, np.median(self.size[some]))
            shares = error[some] / self.size[some]
            share = float(shares.max() if narrow else np.median(shares))
        rms = max((self._rms(difference) for difference in differences), default=0.0)
        _, exponent = np.frexp(self.size)  # size < 2^exponent ≤ 2·size
        ulp = np.maximum(np.where(some[..., None], np.ldexp(1.0, exponent - 1 - BITS[dtype]), 0.0), _TINY[dtype])
        self.rows = WORST * np.maximum(error, share * self.size) + 2 * ulp
        self.rms = RMS * rms + 2.0 ** -(BITS[dtype] + 3)

    def ratios(self, x: Array) -> Array:
        """Error over budget for every element of x, whose shape is that of the truth."""
        found: Array = np.abs(x - self.exact) / self.rows
        return found

    def ratio(self, x: Array) -> float:
        """How many times its budget x is off, by the stricter of the two criteria; inf if it has other NaN than it."""
        if x.shape != self.exact.shape or not np.isfinite(x).all():
            return float("inf")
        worst = float(self.ratios(x).max(initial=0.0))
        return max(worst, self._rms(np.abs(x - self.exact)) / self.rms)

    def around(self, other: Array) -> Budget:
        """The same budget around other numbers; larger in the rows where they are larger, as rounding is."""
        found = copy(self)
        size = np.maximum(np.abs(other).max(axis=-1, keepdims=True, initial=0.0), self.size)
        grown = np.divide(size, self.size, out=np.ones_like(size), where=self.size > 0)
        found.exact, found.size, found.rows = other, size, self.rows * grown
        return found

    def _rms(self, difference: Array) -> float:
        relative = np.divide(difference, self.size, out=np.zeros_like(difference), where=self.size > 0)
        return float(np.sqrt(np.mean(relative**2))) if relative.size else 0.0
