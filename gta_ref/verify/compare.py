"""Compare the arrays of an implementation with a vector: names, shapes, dtypes, NaN and infinities, then values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.ops.arrays import FLOAT_DTYPES
from gta_ref.verify.vectors import Vector


@dataclass(frozen=True)
class Finding:
    """The result for one array of a case.

    Attributes
    ----------
    name : str
    kind : {"ok", "missing", "shape", "dtype", "nonfinite", "value"}
        "ok", or the first thing that is wrong with the array.
    text : str
        One line of text for the report.
    ratio : float
        Error over budget if values were compared, else 0.
    index : tuple of int or None
        Index of the worst element.
    """

    name: str
    kind: str
    text: str
    ratio: float = 0.0
    index: tuple[int, ...] | None = None


def compare(vector: Vector, given: Mapping[str, np.ndarray], wanted: Collection[str] | None = None) -> list[Finding]:
    """Compare every array in the order of computation.

    Parameters
    ----------
    vector : Vector
    given : mapping of str to array
        The arrays that the implementation returned. Names that the case does not have are ignored.
    wanted : names, optional
        The arrays that must be present; default: those that the case requires.

    Returns
    -------
    findings : list of Finding
        One for each array that is given or wanted.
    """
    wanted = set(vector.required if wanted is None else wanted)
    findings = []
    for name, want in vector.expected.items():
        if name in given:
            strict = name in vector.required and name != "loss"
            findings.append(compare_one(name, given[name], want, vector.budgets[name], vector.dtype, strict))
        elif name in wanted:
            findings.append(Finding(name, "missing", f"{name} was not given"))
    return findings


def compare_one(name: str, got: Any, want: np.ndarray, budget: float, dtype: str, strict: bool) -> Finding:
    """Compare one array. With `strict` it must have the dtype of the case, otherwise any floating-point dtype."""
    if tuple(got.shape) != want.shape:
        return Finding(name, "shape", f"{name} has shape {tuple(got.shape)}; expected {want.shape}")
    if got.dtype.name != dtype and (strict or got.dtype.name not in FLOAT_DTYPES):
        expected = dtype if strict else "a floating-point dtype"
        return Finding(name, "dtype", f"{name} has dtype {got.dtype}; expected {expected}")
    got = np.asarray(got, np.float64)
    odd = ~(np.isfinite(got) & np.isfinite(want)) & ~((got == want) | (np.isnan(got) & np.isnan(want)))
    if odd.any():
        index = _first(odd)
        text = (
            f"{name}{list(index)} is {got[index]:g}; expected {want[index]:g} "
            f"({int(odd.sum())} of {got.size} elements are off)"
        )
        return Finding(name, "nonfinite", text, np.inf, index)
    finite = np.isfinite(want)
    error = np.where(finite, np.abs(np.where(finite, got, 0) - np.where(finite, want, 0)), 0.0)
    if not error.size or error.max() <= budget:
        return Finding(name, "ok", f"{name} agrees", float(error.max(initial=0.0) / budget) if budget else 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    ratio = float(error[index] / budget) if budget else np.inf
    text = (
        f"{name}{list(index)} is {got[index]:.9g}; expected {want[index]:.9g}: off by {error[index]:.2g}, "
        f"{ratio:.3g} times its budget ({int((error > budget).sum())} of {got.size} elements are off)"
    )
    return Finding(name, "value", text, ratio, index)


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(where.argmax()), where.shape))
