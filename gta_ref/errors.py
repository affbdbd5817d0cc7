"""Argument checks. Every message states the argument's name, the value received and what was expected."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any, SupportsIndex


def as_int(name: str, value: SupportsIndex, *, at_least: int | None = None) -> int:
    """Return `value` as an int; raise ValueError for a bool, a float or a number below `at_least`."""
    bound = "" if at_least is None else f" of at least {at_least}"
    if isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number{bound}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number{bound}") from None
    if at_least is not None and number < at_least:
        raise ValueError(f"{name}={number} must be a whole number{bound}")
    return number


def as_positive_float(name: str, value: Any) -> float:
    """Return `value` as a float; raise ValueError unless it is a finite number above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be a number above 0") from None
    if isinstance(value, bool) or not 0.0 < number < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number above 0")
    return number


def check_bool(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")


def check_divides(name: str, value: int, whole_name: str, whole: int) -> None:
    """Raise ValueError unless `value` divides `whole`."""
    if whole % value:
        raise ValueError(f"{name}={value} must divide {whole_name}={whole}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


def check_shape(name: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Raise ValueError unless `array` has the shape `expected`, in which a str allows any size."""
    shape = getattr(array, "shape", None)
    if shape is None:
        raise ValueError(f"{name} is a {type(array).__name__}; expected an array")
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise ValueError(f"{name} has shape {tuple(shape)}; expected ({wanted})")


def check_names(what: str, got: Collection[str], expected: Collection[str]) -> None:
    """Raise ValueError unless `got` holds the names in `expected` and no others; list the missing and the unknown."""
    missing = sorted(set(expected) - set(got))
    unknown = sorted(set(got) - set(expected))
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise ValueError(f"{what}: {'; '.join(parts)}; expected {', '.join(expected)}")


def check_params(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: Any) -> None:
    """Raise ValueError unless `params` holds exactly the arrays that `shapes` names, all of `dtype`.

    One dtype for all arrays keeps a float32 run in float32; with mixed dtypes, NumPy would silently widen.
    """
    check_names("params", params, shapes)
    for name, shape in shapes.items():
        check_shape(f"params[{name!r}]", params[name], shape)
        if params[name].dtype != dtype:
            raise ValueError(f"params[{name!r}] has dtype {params[name].dtype}; expected {dtype}, as the input has")
