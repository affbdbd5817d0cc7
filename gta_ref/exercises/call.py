"""One call of a student's function: on read-only copies, with whatever happens described in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.exercises.foreign import Foreign, kind
from gta_ref.exercises.meter import Meter
from gta_ref.exercises.student import sentence


@dataclass(frozen=True)
class Outcome:
    """What came of one call.

    Attributes
    ----------
    answer : object
        What the function returned: arrays, numbers and texts, in lists, tuples and dicts; the rest is :class:`Foreign`.
    problem : str or None
        What went wrong, in words; None if the function returned.
    held : int or None
        The most bytes held during the call beyond those held before it, if that was to be measured.
    everything : bool
        Whether that counts the memory of every library, or only that of NumPy and Python.
    """

    answer: Any = None
    problem: str | None = None
    held: int | None = None
    everything: bool = False


def run(
    function: Callable[..., Any], name: str, names: Sequence[str], arguments: Sequence[Any], called: Sequence[str],
    meter: Meter | None = None,
) -> Outcome:  # fmt: skip
    """Call the function with read-only copies of the arguments.

    Parameters
    ----------
    function : callable
    name : str
        Its name in the exercise.
    names : sequence of str
        Names of its parameters.
    arguments : sequence
    called : sequence of str
        Filled by :func:`gta_ref.exercises.blocking.blocked` with the library's functions that were called.
    meter : Meter, optional
        Measures the memory that the function holds.

    Returns
    -------
    Outcome
    """
    own = tuple(read_only(x) for x in arguments)
    answer: Any = None
    error: BaseException | None = None
    if meter is not None:
        meter.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an overflow shows in the values
        try:
            answer = function(*own)
        except BaseException as raised:  # sys.exit and KeyboardInterrupt too: they are the student's
            error = raised
    held = meter.peak() if meter is not None else None
    if called:
        return Outcome(problem=f"This exercise asks you to write it yourself: {called[0]} was called.")
    if error is not None:
        return Outcome(problem=sentence(error, function))
    for mine, given, parameter in zip(own, arguments, names, strict=True):
        if not _same(mine, given):
            hint = f"Compute into a new array: {parameter} belongs to the caller."
            return Outcome(problem=f"{name} changes its input {parameter}. {hint}")
    return Outcome(plain(answer), held=held, everything=meter is not None and meter.everything)


def read_only(x: Any) -> Any:
    """A copy of x: arrays that cannot be written to, in dicts as well."""
    if isinstance(x, dict):
        return {key: read_only(value) for key, value in x.items()}
    if not isinstance(x, np.ndarray):
        return x
    x = x.copy()
    x.flags.writeable = False
    return x


def _same(mine: Any, given: Any) -> bool:
    if isinstance(given, dict):
        return mine.keys() == given.keys() and all(_same(mine[key], value) for key, value in given.items())
    if isinstance(given, np.ndarray):
        return isinstance(mine, np.ndarray) and mine.tobytes() == given.tobytes()
    return bool(mine is given or mine == given)


def plain(x: Any) -> Any:
    """What the function returned, without the objects of other libraries, which another process cannot always read."""
    if isinstance(x, np.ndarray):
        return Foreign("an array of objects") if x.dtype.hasobject else np.asarray(x)
    if x is None or isinstance(x, np.generic) or type(x) in (bool, int, float, complex, str):
        return x
    if isinstance(x, tuple | list):
        return tuple(map(plain, x)) if isinstance(x, tuple) else list(map(plain, x))
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    return Foreign(kind(x))
