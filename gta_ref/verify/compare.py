"""Compare the arrays of an implementation with a vector: names, shapes, dtypes, NaN and infinities, then values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.ops.arrays import FLOAT_DTYPES, STORAGE_DTYPES, as_dtype
from gta_ref.verify.plain import rms, slope
from gta_ref.verify.vector import Vector

# the stages of MLA that differ between its two ways, or exist in one of them only
OF_ONE_WAY = frozenset(("q", "k", "v", "z", "k_nope", "q_latent", "d_q", "d_k", "d_v", "d_z", "d_k_nope", "d_q_latent"))


@dataclass(frozen=True)
class Finding:
    """The result for one array of a case.

    Attributes
    ----------
    name : str
    kind : {"ok", "missing", "shape", "dtype", "nonfinite", "value", "slope", "rms"}
        "ok", or the first thing that is wrong with the array. "value": an element is off by more than its budget;
        "slope": all elements together are too large or too small; "rms": too many are off by too much.
    text : str
        One line of text for the report.
    ratio : float
        The error over what is allowed, the largest of the criteria that were applied; 0 if no values were compared.
    index : tuple of int or None
        Index of the worst element.
    quality : float or None
        The rms error over that of a computation with float32 inside; None if that has no error, or if no values were
        compared.
    """

    name: str
    kind: str
    text: str
    ratio: float = 0.0
    index: tuple[int, ...] | None = None
    quality: float | None = None


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
        One for each array that is given or wanted. If an MLA layer was computed in the other one of its two ways, the
        stages that differ between them are left out.
    """
    wanted = set(vector.required if wanted is None else wanted)
    left_out = OF_ONE_WAY if _other_way(vector, given) else frozenset()
    findings = []
    for name, want in vector.expected.items():
        if name in left_out:
            continue
        if name in given:
            findings.append(_compare_in(vector, name, given[name], want))
        elif name in wanted:
            findings.append(Finding(name, "missing", f"{name} was not given"))
    return findings


def _compare_in(vector: Vector, name: str, got: Any, want: np.ndarray) -> Finding:
    """Compare one array by all criteria that the vector has for it."""
    limits, strict = vector.limits, name in vector.required and name != "loss"
    got = as_compared(vector, name, got)
    if name in limits.singles and got.dtype.name in ("float32", "float64"):
        return compare_one(name, got, want, limits.singles[name], vector.dtype, strict, fine=limits.fine[name])
    return compare_one(
        name, got, want, limits.budgets[name], vector.dtype, strict,
        rms_limit=limits.rms.get(name), slope_limit=limits.slopes.get(name), fine=limits.fine[name],
    )  # fmt: skip


def as_compared(vector: Vector, name: str, got: Any) -> Any:
    """An array in the form in which it is compared: a loss gets an axis, unused slots of a layer count as right."""
    want = vector.expected[name]
    if name == "loss" and tuple(got.shape) == ():
        return np.reshape(got, want.shape)
    if name in ("scores", "d_map") and vector.case.level == "layer" and tuple(got.shape) == want.shape:
        return np.where(_used(vector, want.shape[-1]), got, want.astype(got.dtype))
    return got


def compare_one(
    name: str,
    got: Any,
    want: np.ndarray,
    budget: float,
    dtype: str,
    strict: bool,
    *,
    rms_limit: float | None = None,
    slope_limit: float | None = None,
    fine: float = 0.0,
) -> Finding:
    """Compare one array.

    With `strict` it must have the dtype of the case, or float32 or float64 in a case of 16 bits; otherwise any
    floating-point dtype.
    """
    if tuple(got.shape) != want.shape:
        return Finding(name, "shape", f"{name} has shape {tuple(got.shape)}; expected {want.shape}")
    given_dtype = got.dtype.name
    if given_dtype not in FLOAT_DTYPES or (strict and not _at_least(given_dtype, dtype)):
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
    if not error.size:
        return Finding(name, "ok", f"{name} agrees")
    index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    mean = rms(error[finite])
    quality = _quality(mean, want[finite], given_dtype, fine)
    ratio = _over(float(error[index]), budget)
    if ratio > 1:
        text = (
            f"{name}{list(index)} is {got[index]:.9g}; expected {want[index]:.9g}: off by {error[index]:.2g}, "
            f"{ratio:.3g} times its budget ({int((error > budget).sum())} of {got.size} elements are off)"
        )
        return Finding(name, "value", text, ratio, index, quality)
    ratios = [ratio]
    if slope_limit is not None:
        found = slope(got, want)
        ratios.append(_over(abs(found - 1), slope_limit))
        if ratios[-1] > 1:
            text = f"{name} is {abs(found - 1):.2%} too {'large' if found > 1 else 'small'} as a whole"
            text += f"; expected at most {slope_limit:.2%}"
            return Finding(name, "slope", text, ratios[-1], index, quality)
    if rms_limit is not None:
        ratios.append(_over(mean, rms_limit))
        if ratios[-1] > 1:
            text = f"{name} has an rms error of {mean:.3g}, {ratios[-1]:.3g} times what rounding explains"
            return Finding(name, "rms", text, ratios[-1], index, quality)
    note = "" if not strict or given_dtype == dtype else f", in {given_dtype} where {dtype} is enough"
    return Finding(name, "ok", f"{name} agrees{note}", max(ratios), None, quality)


def _over(error: float, limit: float) -> float:
    """The error over its limit; a limit of 0 allows no error."""
    return error / limit if limit else (np.inf if error else 0.0)


def _at_least(given: str, dtype: str) -> bool:
    """Whether an array may have the dtype `given`: that of the case, or float32 and float64 where that has 16 bits.

    In a case of float32, float64 means that something was widened by accident, which costs a kernel half of its speed.
    """
    return given == dtype or (dtype in STORAGE_DTYPES and given in ("float32", "float64"))


def _quality(mean: float, want: np.ndarray, given: str, fine: float) -> float | None:
    """The rms error over that of a computation with float32 inside whose result is stored in the dtype `given`."""
    if given in STORAGE_DTYPES:
        with np.errstate(over="ignore"):
            fine = max(fine, rms(want.astype(as_dtype(given)).astype(np.float64) - want))
    return mean / fine if fine > 0 else None


def _used(vector: Vector, n_keys: int) -> np.ndarray:
    """(B, 1, 1, N_k): the slots of keys that are in use; what a layer computes from others reaches no result."""
    slot = np.arange(n_keys)
    start, stop = vector.inputs["k_start"], vector.inputs["k_stop"]
    used: np.ndarray = ((start[:, None] <= slot) & (slot < stop[:, None]))[:, None, None]
    return used


def _other_way(vector: Vector, given: Mapping[str, Any]) -> bool:
    """Whether the given stages are those of MLA's other way: absorbed instead of decompressed, or the reverse."""
    settings = vector.case.settings
    if vector.case.level != "layer" or settings["mechanism"] != "mla" or "z" not in vector.expected:
        return False
    own, other = ("k_nope", "q_latent") if "k_nope" in vector.expected else ("q_latent", "k_nope")
    if own in given or f"d_{own}" in given:
        return False
    if other in given or f"d_{other}" in given:
        return True
    width = settings["config"]["latent_dim" if other == "q_latent" else "value_dim"]
    return any(
        tuple(given[n].shape)[-1:] == (width,) != vector.expected[n].shape[-1:] for n in ("z", "d_z") if n in given
    )


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(where.argmax()), where.shape))
