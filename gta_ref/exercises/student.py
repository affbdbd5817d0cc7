"""The student's function: whether it can be called, and where in it an error happened."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gta_ref.exercises.foreign import kind
from gta_ref.exercises.timer import TooLong

OURS = str(Path(__file__).parents[1])  # the library's own files
# all that is left of a body that consists of `...`, `pass` or a docstring
EMPTY = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


def called_with(name: str) -> str:
    """A call, as hints write it."""
    return f"{name}(…)"


def not_callable(name: str, parameters: str, function: Any) -> str | None:
    """Say why `function` cannot be called with these parameters; None if it can."""
    if function is None or function is ...:
        return f"This is {'None' if function is None else '`...`'}; expected the function itself: check(…, {name})."
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
    return f"{name} is not written yet: its body is still `...`." if _empty(function) else None


def _empty(function: Any) -> bool:
    """Whether the function's body does nothing, or ends with `...`, as in a starter."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_name == "<lambda>":
        return False
    steps = list(dis.get_instructions(code))
    nothing = all(step.opname in EMPTY and (step.argval is None or "CONST" not in step.opname) for step in steps)
    tree = _tree(function)
    return (nothing and not _returns(tree)) or _ends_open(tree)


def _tree(function: Any) -> ast.Module | None:
    """The source of the function, as far as it can be read."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def _returns(tree: ast.Module | None) -> bool:
    """Whether there is a ``return`` in the source: ``return None`` is an answer."""
    return tree is not None and any(isinstance(node, ast.Return) for node in ast.walk(tree))


def _ends_open(tree: ast.Module | None) -> bool:
    """Whether the source ends with `...`, as in a starter that gives the first lines."""
    if tree is None or not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return False
    last = tree.body[0].body[-1]
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is Ellipsis


def sentence(error: BaseException, function: Callable[..., Any]) -> str:
    """Describe an error by its message and the line of the student's code that raised it, without our own frames."""
    if isinstance(error, NotImplementedError):
        return "The function is not written yet (NotImplementedError)."
    message = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, ValueError) and "read-only" in message:
        text = "The function writes into one of its inputs. Compute into a new array: the input belongs to the caller."
    elif isinstance(error, TooLong):
        text = message
    elif isinstance(error, SystemExit):
        text = "The function ends the program (sys.exit, exit or quit); it has to return its result."
    elif isinstance(error, RecursionError):
        text = f"RecursionError: the function calls itself again and again without an end ({message})."
    elif isinstance(error, KeyboardInterrupt):
        text = "KeyboardInterrupt: the function was interrupted before it returned."
    elif isinstance(error, MemoryError):
        text = f"{text}. The function asks for more memory than there is."
    place = where(error, function)
    return f"{text}\n{place}" if place else text


def where(error: BaseException, function: Callable[..., Any]) -> str | None:
    """The last line of the student's own file that was running when the error was raised; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [f for f in frames if code is not None and f.filename == code.co_filename]
    own = own or [f for f in frames if not f.filename.startswith(OURS)]
    if not own:
        return None
    frame = own[-1]
    return f"  line {frame.lineno}, in {frame.name}: {frame.line}" if frame.line else f"  line {frame.lineno}"
