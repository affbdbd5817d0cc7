"""The student's function: whether it can be called, and where in it an error happened."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gta_ref.exercises.comparing import kind

OURS = str(Path(__file__).parents[1])  # the library's own files


def called_with(name: str) -> str:
    """A call, as hints write it."""
    return f"{name}(…)"


def not_callable(name: str, parameters: str, function: Any) -> str | None:
    """Say why `function` cannot be called with these parameters; None if it can."""
    if not callable(function):
        hint = f"expected the function itself, not its result: check(…, {name})"
        return f"This is {kind(function)}; {hint}."
    count = len(parameters.split(","))
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        return f"The check calls {called_with(name)} with {count} arguments, ({parameters}): {error}."
    except ValueError:  # a builtin that has no signature to look at
        return None
    return None


def sentence(error: Exception, function: Callable[..., Any]) -> str:
    """Describe an error by its message and the line of the student's code that raised it, without our own frames."""
    if isinstance(error, NotImplementedError):
        return "The function is not written yet (NotImplementedError)."
    message = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, ValueError) and "read-only" in message:
        text = "The function writes into one of its inputs. Compute into a new array: the input belongs to the caller."
    place = where(error, function)
    return f"{text}\n{place}" if place else text


def where(error: Exception, function: Callable[..., Any]) -> str | None:
    """The last line of the student's own file that was running when the error was raised; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [f for f in frames if code is not None and f.filename == code.co_filename]
    own = own or [f for f in frames if not f.filename.startswith(OURS)]
    if not own:
        return None
    frame = own[-1]
    return f"  line {frame.lineno}, in {frame.name}: {frame.line}" if frame.line else f"  line {frame.lineno}"
