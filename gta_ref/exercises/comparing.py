"""Compare what a student's function returned with what the library computes: form first, then values, then dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.exercises.foreign import kind


@dataclass(frozen=True)
class Expected:
    """One array that the function has to return.

    Attributes
    ----------
    value : float64 or int64 array
        The right values.
    tolerance : float
        Largest accepted difference, in units of the array; 0 for whole numbers.
    dtype : dtype
        The array's dtype when it is computed in the precision of the inputs.
    letters : str
        Its shape in the legend's letters, such as "B, n_q, N_q, N_k".
    """

    value: np.ndarray
    tolerance: float
    dtype: np.dtype
    letters: str


def rounded(count: float, dtype: np.dtype) -> float:
    """How far off a right answer may be that has gathered `count` roundings, in units of the result.

    A rounding moves a number by at most half a machine epsilon, so `count` epsilons are room for the student's
    roundings and for as many of the library's.
    """
    return float(count * np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def arrays_of(answer: Any, expected: Mapping[str, Expected], function: str) -> tuple[dict[str, np.ndarray], str | None]:
    """The answer's arrays by name, and what is wrong with their form (None if nothing is).

    There are no arrays if the answer is not made of the right number of arrays at all.
    """
    several = len(expected) > 1
    if several and not isinstance(answer, tuple | list):
        return {}, f"{function}(…) returns {kind(answer)}; expected {len(expected)} arrays, {', '.join(expected)}."
    if several and len(answer) != len(expected):
        return {}, f"{function}(…) returns {len(answer)} values; expected {len(expected)}: {', '.join(expected)}."
    if not several and isinstance(answer, tuple) and len(answer) > 1 and _arrays(answer):
        return {}, f"{function}(…) returns {len(answer)} values; expected one, {next(iter(expected))}."
    got: dict[str, np.ndarray] = {}
    problem = None
    for (name, one), part in zip(expected.items(), answer if several else (answer,), strict=True):
        if part is None:
            return {}, f"{name} is None; expected {shapes_of({name: one})}."
        if not isinstance(part, np.ndarray | np.generic | int | float | list | tuple):
            hint = " Is .numpy() missing?" if kind(part) == "a torch.Tensor" else ""
            return {}, f"{name} is {kind(part)}; expected a NumPy array.{hint}"
        try:
            x = np.asarray(part)
        except ValueError:
            return {}, f"{name} is a list of unequal lengths; expected {shapes_of({name: one})}."
        if x.dtype.kind not in "fiub":
            return {}, f"{name} has dtype {x.dtype}; expected {one.dtype}."
        got[name] = x
        if problem is None and x.shape != one.value.shape:
            problem = wrong_shape(name, x, one)
    return got, problem


def _arrays(values: tuple[Any, ...]) -> bool:
    """Whether the values are arrays, rather than the rows of one array that was built from tuples."""
    return any(isinstance(x, np.ndarray) for x in values)


def wrong_shape(name: str, got: np.ndarray, expected: Expected) -> str:
    """Say which shape was returned and which was expected, and name the difference if it is a simple one."""
    want = expected.value.shape
    letters = f" = ({expected.letters})" if expected.letters else ""
    text = f"{name} has shape {got.shape}; expected {want}{letters}."
    if got.ndim == len(want) and sorted(got.shape) == sorted(want):
        text += " The axes are right but in another order."
    elif got.ndim == len(want) + 1:
        text += " There is an axis too many: is a sum missing?"
    elif got.size == expected.value.size:
        text += " The number of elements is right: a reshape or a transpose is missing."
    return text


def agree(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    """Whether shapes, NaN and infinities are the same and all else is within the tolerance."""
    if got.shape != want.shape:
        return False
    return not wrong_places(got, want, tolerance).any()


def wrong_places(got: np.ndarray, want: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two arrays of the same shape differ; NaN equals NaN."""
    got, want = (x.astype(np.float64) for x in (got, want))
    both = np.isfinite(got) & np.isfinite(want)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    distance = np.abs(np.where(both, got, 0.0) - np.where(both, want, 0.0))
    return np.where(both, distance > tolerance, ~same)


def worst(got: np.ndarray, expected: Expected) -> tuple[int, ...]:
    """Index of the element that is furthest off, or of the first one that is wrong and not finite, if there is one."""
    want = expected.value
    if not got.size:
        return ()
    with np.errstate(invalid="ignore"):
        distance = np.abs(got.astype(np.float64) - want)
    odd = wrong_places(got, want, expected.tolerance) & ~np.isfinite(distance)
    place = int(odd.argmax()) if odd.any() else int(np.where(np.isfinite(distance), distance, 0.0).argmax())
    return tuple(int(i) for i in np.unravel_index(place, got.shape))


def difference(name: str, got: np.ndarray, expected: Expected) -> str | None:
    """What is wrong with the values, in words; None if nothing is."""
    want = expected.value
    wrong = wrong_places(got, want, expected.tolerance)
    if not wrong.any():
        return None
    index = worst(got, expected)
    at = f"{name}[{', '.join(map(str, index))}]" if index else name
    yours, right = number(got[index]), number(want[index])
    for odd, what in ((np.isnan(got), "NaN"), (np.isinf(got), "infinite")):
        count = int((odd & wrong).sum())
        if count:
            return f"{name} is {what} in {count} of {got.size} places; {at} should be {right}."
    text = f"{int(wrong.sum())} of {got.size} values of {name} are wrong."
    text += f" The worst is {at}: yours {yours}, expected {right}."
    relation = related(got, expected)
    return text + (f" {relation}" if relation else "")


def related(got: np.ndarray, expected: Expected) -> str | None:
    """A simple relation to what is expected: a factor, or heads in another order; None if there is none."""
    want, tol = expected.value, expected.tolerance
    norm = float((want * want).sum()) if np.isfinite(want).all() else 0.0
    if norm > 0 and got.size > 2:
        factor = float((got.astype(np.float64) * want).sum()) / norm
        if factor and agree(got, factor * want, max(1.0, abs(factor)) * tol):
            if abs(factor + 1) < 1e-6:
                return "Every value has the wrong sign."
            return f"Every value is {factor:.4g} times what is expected."
    if got.ndim >= 3 and 2 <= got.shape[1] <= 32:
        order = [
            next((j for j in range(got.shape[1]) if agree(got[:, i], want[:, j], tol)), None)
            for i in range(got.shape[1])
        ]
        if None not in order and sorted(order) == list(range(got.shape[1])):  # type: ignore[type-var]
            return f"The heads (axis 1) are right but in another order: {order}."
    return None


def first_wrong_dtype(got: Mapping[str, np.ndarray], expected: Mapping[str, Expected]) -> str | None:
    """What is wrong with the dtype of right values; None if nothing is."""
    return next((text for name, one in expected.items() if (text := wrong_dtype(name, got[name], one))), None)


def wrong_dtype(name: str, got: np.ndarray, expected: Expected) -> str | None:
    """What is wrong with the dtype of one array of right values; None if nothing is."""
    if expected.dtype.kind == "i":
        if got.dtype.kind in "iu":
            return None
        return f"{name} has the right values, but as {got.dtype}; expected whole numbers: int(…), or x.astype(int)."
    if got.dtype == expected.dtype:
        return None
    text = f"The values are right, but {name} is {got.dtype} where the inputs are {expected.dtype}."
    if got.dtype == np.float64:
        text += (
            " A float64 number from NumPy (np.sqrt(64), np.float64) or a float64 array (np.zeros without dtype) "
            "widens whatever it is combined with; Python's own numbers (d**-0.5, math.sqrt) do not."
        )
    return text


def shapes_of(expected: Mapping[str, Expected]) -> str:
    """The expected arrays in words: "an array (2, 5, 7, 7)"."""
    if len(expected) == 1:
        shape = next(iter(expected.values())).value.shape
        return f"an array {shape}" if shape else "a number"
    return ", ".join(f"{name} {one.value.shape}" if one.value.shape else name for name, one in expected.items())


def number(x: Any) -> str:
    """A number as a hint prints it."""
    return str(int(x)) if np.asarray(x).dtype.kind in "iub" else f"{float(x):.6g}"
