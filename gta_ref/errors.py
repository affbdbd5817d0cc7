"""Argument checks. Every message is one line: the argument's name, what came and what was expected.

`name=value must …` is for a value, `name is a …; expected …` for a type, and `name has …; expected …` for an array.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, SupportsIndex

LARGEST = 2**63 - 1  # of NumPy's int64: a larger number would wrap around
LONGEST = 60  # characters of a value that a message shows
MOST_NAMES = 20  # in a list of a message


def shown(value: Any) -> str:
    """The value as a message shows it: its repr in one line, cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of an int with more digits than Python prints, or of a repr that fails
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def printable(text: str) -> str:
    """The text in one line, with escapes for the characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def kind_of(value: Any) -> str:
    """What a value is, in words: "None" or "a list"; a class of this project with its module, since many are Config."""
    kind = type(value)
    if value is None:
        return "None"
    return f"a {kind.__module__}.{kind.__name__}" if kind.__module__.startswith("gta_ref") else f"a {kind.__name__}"


def refuse(name: str, value: Any, expected: str) -> NoReturn:
    """Raise the ValueError for an argument of a wrong type."""
    raise ValueError(f"{name} is {kind_of(value)}; expected {expected}")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise ValueError unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        refuse(name, value, expected)


def as_int(name: str, value: SupportsIndex, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return `value` as an int; raise ValueError for a bool, a float or a number that is too small or too large."""
    bound = "" if at_least is None else f" of at least {at_least}"
    if isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number{bound}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={shown(value)} must be a whole number{bound}") from None
    if at_least is not None and number < at_least:
        raise ValueError(f"{name}={shown(number)} must be a whole number{bound}")
    if at_most is not None and number > at_most:
        raise ValueError(f"{name}={shown(number)} must be a whole number of at most {at_most}")
    return number


def as_size(name: str, value: SupportsIndex, *, at_least: int = 1, at_most: int = LARGEST) -> int:
    """Return a size as an int; raise ValueError unless it is a whole number of at least 1 that fits in 64 bits."""
    return as_int(name, value, at_least=at_least, at_most=at_most)


def as_heads(n_heads: SupportsIndex, head_dim: SupportsIndex, *, multiple_of: int = 1) -> tuple[int, int]:
    """Return the sizes from which those of a small model follow; raise ValueError unless they are whole and fit."""
    n_heads, head_dim = as_size("n_heads", n_heads), as_size("head_dim", head_dim)
    if n_heads % multiple_of:
        raise ValueError(f"n_heads={n_heads} must be a multiple of {multiple_of}")
    return n_heads, head_dim


def as_positive_float(name: str, value: Any) -> float:
    """Return `value` as a float; raise ValueError unless it is a finite number above 0."""
    number = as_float(name, value, "a number above 0")
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{name}={shown(value)} must be a finite number above 0")
    return number


def as_float(name: str, value: Any, expected: str = "a number") -> float:
    """Return a real number as a float; raise ValueError for anything else, and for an int that no float can hold."""
    kind = getattr(getattr(value, "dtype", None), "kind", "f")  # an array of one number is a number, if it has no axes
    try:
        if isinstance(value, (bool, str, bytes, bytearray)) or kind not in "fiuV" or getattr(value, "ndim", 0) != 0:
            raise TypeError
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}={shown(value)} must be {expected.replace('a ', 'a finite ', 1)}") from None
    except (TypeError, ValueError):
        raise ValueError(f"{name}={shown(value)} must be {expected}") from None


def check_bool(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={shown(value)} must be True or False")


def check_divides(name: str, value: int, whole_name: str, whole: int) -> None:
    """Raise ValueError unless `value` divides `whole`."""
    if whole % value:
        raise ValueError(f"{name}={value} must divide {whole_name}={whole}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={shown(value)} must be one of {', '.join(map(repr, choices))}")


def check_shape(name: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Raise ValueError unless `array` has the shape `expected`, in which a str allows any size."""
    shape = getattr(array, "shape", None)
    if not isinstance(shape, tuple):
        refuse(name, array, "an array")
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise ValueError(f"{name} has shape {tuple(shape)}; expected ({wanted})")


def check_names(what: str, got: Collection[str], expected: Collection[str]) -> None:
    """Raise ValueError unless `got` holds the names in `expected` and no others; list the missing and the unknown."""
    missing = sorted(set(expected) - set(got))
    unknown = sorted(str(name) for name in set(got) - set(expected))
    if missing or unknown:
        parts = [f"missing {listed(missing)}"] if missing else []
        parts += [f"unknown {listed(unknown)}"] if unknown else []
        raise ValueError(f"{what}: {'; '.join(parts)}; expected {listed(expected)}")


def listed(names: Collection[str]) -> str:
    """The names in one line; of more than 20 the first 16, because a model has hundreds."""
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(list(names)[: MOST_NAMES - 4])} and {len(names) - MOST_NAMES + 4} more"


def check_params_mapping(params: Any) -> None:
    """Raise ValueError unless `params` is a mapping."""
    check_type("params", params, Mapping, "a mapping of names to arrays")


def check_params(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: Any) -> None:
    """Raise ValueError unless `params` holds exactly the arrays that `shapes` names, all of `dtype`.

    One dtype for all arrays keeps a float32 run in float32; with mixed dtypes, NumPy would silently widen.
    """
    check_params_mapping(params)
    check_names("params", params, shapes)
    for name, shape in shapes.items():
        of_array = getattr(params[name], "dtype", None)
        if of_array is None:
            refuse(f"params[{name!r}]", params[name], "an array of floats")
        check_shape(f"params[{name!r}]", params[name], shape)
        if of_array != dtype:
            raise ValueError(f"params[{name!r}] has dtype {of_array}; expected {dtype}, as the input has")
