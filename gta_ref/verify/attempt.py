"""One attempt of an implementation at a case: it is called with private copies, and what it returns is kept.

This is all that runs in a process of its own under ``isolate``; the expected arrays are unknown here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.verify import exchange
from gta_ref.verify.candidate import NoBackwardError, describe, one_line, to_function, trace, where

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """What an implementation is asked to do.

    Attributes
    ----------
    inputs : dict of str to array
    settings : mapping
    library : str
        The library whose arrays are handed out.
    repeats : int
        How often it is called, each time with fresh copies.
    steady : bool
        Whether all calls must return the same bytes.
    backward : bool
        Whether an object's backward is called.
    names : frozenset of str
        Names of the arrays that are kept; others are forgotten.
    """

    inputs: Arrays
    settings: Mapping[str, Any]
    library: str
    repeats: int
    steady: bool
    backward: bool
    names: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes
    ----------
    runs : tuple of dict
        The arrays of each call; with `steady` only those of the first, since the others are the same.
    status : {"skip", "error", "fail"} or None
        None if all went well; then there is at least one run.
    text : str
        One line of text about it.
    where, trace : str or None
        Of an exception, ``file:line`` and the traceback.
    no_backward : str or None
        The reason why an object's backward is not implemented, in which case the runs are those of its forward.
    unknown : tuple of str
        Names that were returned but not asked for.
    """

    runs: tuple[Arrays, ...] = ()
    status: str | None = None
    text: str = ""
    where: str | None = None
    trace: str | None = None
    no_backward: str | None = None
    unknown: tuple[str, ...] = ()


def attempt(impl: Any, job: Job) -> Outcome:
    """Call an implementation as often as the job says."""
    call = to_function(impl, backward=job.backward)
    runs: list[Arrays] = []
    no_backward: str | None = None
    unknown: tuple[str, ...] = ()
    for number in range(1, job.repeats + 1):
        try:
            given = hand_out(job.inputs, job.library, job.settings)
            before = {name: np.array(exchange.to_numpy(x)) for name, x in given.items()}
            try:
                with np.errstate():  # an implementation may change it
                    named = call(dict(given), copy.deepcopy(dict(job.settings)))
            except NoBackwardError as error:
                named, no_backward = error.named, describe(error.__cause__ or error)
            if not isinstance(named, Mapping):
                raise TypeError(f"returned a {type(named).__name__}; expected a mapping of names to arrays")
            unknown = tuple(str(name) for name in named if name not in job.names)
            views = {name: exchange.to_numpy(x, name) for name, x in named.items() if name in job.names}
        except NotImplementedError as error:
            if runs:
                return _failed(error, f"{describe(error)} in run {number}, but not before")
            return Outcome(status="skip", text=describe(error), where=where(error), trace=trace(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit as well, which would end the command with status 0
            return _failed(error, one_line(error))
        fault = _fault(given, before, views, job.library)
        if fault is not None:
            return Outcome(status="fail", text=fault)
        outputs = {name: np.array(x) for name, x in views.items()}  # it may write into these arrays in the next run
        if job.steady and runs:
            unsteady = _first_difference(runs[0], outputs)
            if unsteady is not None:
                return Outcome(status="fail", text=f"{unsteady} differs from run to run (run 1 and run {number})")
        else:
            runs.append(outputs)
    return Outcome(tuple(runs), no_backward=no_backward, unknown=unknown)


def hand_out(inputs: Mapping[str, np.ndarray], library: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Private copies of the inputs, as arrays of a library, in the memory layout that the settings ask for."""
    given = exchange.from_numpy({name: np.array(x) for name, x in inputs.items()}, library)
    layout = settings.get("layout", "contiguous")
    return given if layout == "contiguous" else exchange.lay_out(given, layout)


def _failed(error: BaseException, text: str) -> Outcome:
    return Outcome(status="error", text=text, where=where(error), trace=trace(error))


def _fault(given: Mapping[str, Any], before: Arrays, views: Arrays, library: str) -> str | None:
    """What an implementation has done that it must not do, although the numbers may be right."""
    written = [name for name, x in given.items() if not same_bytes(exchange.to_numpy(x), before[name])]
    if written:
        return f"writes into its input {', '.join(written)}"
    odd = next((name for name, x in views.items() if x.dtype.hasobject), None)
    if odd is not None:
        return f"{odd} has dtype {views[odd].dtype}; expected a floating-point dtype"
    if library == "numpy":
        for name, x in views.items():
            if any(np.shares_memory(x, y) for y in given.values()):
                return f"{name} shares memory with an input"
    return None


def _first_difference(first: Arrays, other: Arrays) -> str | None:
    for name in (*first, *(name for name in other if name not in first)):
        if name not in first or name not in other or not same_bytes(first[name], other[name]):
            return name
    return None


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same shape, dtype and bytes."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
