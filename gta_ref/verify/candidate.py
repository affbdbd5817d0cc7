"""The implementation that is checked: import it by its name, and turn it into a function of (arrays, settings)."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gta_ref.errors import kind_of

Implementation = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
COTANGENTS = ("d_z", "d_lse", "d_out")
EXPECTED = "a function of (arrays, settings) that returns named arrays, or an object with forward and backward"
_LONGEST = 20_000  # characters of a traceback that are kept


class NoBackwardError(NotImplementedError):
    """Raised for an object whose backward raises NotImplementedError; `named` are the arrays of its forward."""

    def __init__(self, message: str, named: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.named = named


def to_function(impl: Any, *, backward: bool = True) -> Implementation:
    """Turn `impl` into a function of (arrays, settings); without `backward`, an object's backward is not called.

    An object is one with ``forward``, and ``backward`` or ``decode``. A module of PyTorch is called like a function.

    Raises
    ------
    ValueError
        If `impl` is neither a function of two arguments nor such an object.
    """
    if inspect.isclass(impl) and hasattr(impl, "forward"):
        raise ValueError(f"impl is the class {impl.__name__}; expected an object: {impl.__name__}(…)")
    module = _is_torch_module(impl)
    if module or not _is_object(impl):
        if not callable(impl):
            raise ValueError(f"impl is {kind_of(impl)}; expected {EXPECTED}")
        if not _takes_two(impl.forward if module else impl):
            what = f"the torch.nn.Module {type(impl).__name__}" if module else f"a {_signature(impl)}"
            raise ValueError(f"impl is {what}; expected {EXPECTED}: write one that calls it")
        function: Implementation = impl
        return function

    def call(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
        named: Mapping[str, Any]
        if settings.get("chunks"):
            if not hasattr(impl, "decode"):
                raise NotImplementedError("the object has no decode")
            named = impl.decode(arrays, settings)
            return named
        inputs = {name: x for name, x in arrays.items() if name not in COTANGENTS}
        named, saved = impl.forward(inputs, settings)
        if not backward or not hasattr(impl, "backward"):
            return named
        cotangents = {name: x for name, x in arrays.items() if name in COTANGENTS}
        try:
            return {**named, **impl.backward(cotangents, saved, settings)}
        except NotImplementedError as error:
            raise NoBackwardError(str(error), named) from error

    return call


def _is_torch_module(impl: Any) -> bool:
    torch = sys.modules.get("torch")  # unless it has been imported, there is no module of it
    return torch is not None and isinstance(impl, torch.nn.Module)


def _is_object(impl: Any) -> bool:
    if not hasattr(impl, "forward"):
        return False
    return hasattr(impl, "backward") or hasattr(impl, "decode") or not callable(impl)


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C without a signature
        return True
    return True


def _signature(function: Any) -> str:
    return f"function {getattr(function, '__name__', type(function).__name__)}{inspect.signature(function)}"


def load(text: str) -> Any:
    """Import ``package.module:name``; modules in the current folder can be imported, as with python -m.

    Raises
    ------
    ValueError
        If `text` has another form, if the module or the name does not exist, or if the module raises an exception or
        calls sys.exit when it is imported.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name or module.startswith("."):  # a relative import has no meaning here
        raise ValueError(f"impl={text!r} must be of the form package.module:name")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"impl={text!r}: no module {error.name}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit(0) as well, which would end the command with status 0
        raise ValueError(f"impl={text!r} cannot be imported: {one_line(error)}") from error
    finally:
        sys.path.pop(0)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"impl={text!r}: {module} has no {name}")
        found = getattr(found, part)
    return found


def name_of(impl: Any) -> str | None:
    """The form ``package.module:name`` of an implementation, if it can be imported by it."""
    if isinstance(impl, str):
        return impl
    module, name = getattr(impl, "__module__", None), getattr(impl, "__qualname__", None)
    if module in (None, "__main__") or name is None or not all(part.isidentifier() for part in name.split(".")):
        return None
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is impl else None


def one_line(error: BaseException) -> str:
    """An exception as one line of text: its type, its message, and the file and line if they are known."""
    place = where(error)
    return describe(error) + (f" ({place})" if place else "")


def describe(error: BaseException) -> str:
    """An exception as one line of text without its place."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:  # its __str__ fails
        text = ""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def where(error: BaseException) -> str | None:
    """The place at which an exception was raised, as ``file:line``."""
    if isinstance(error, SyntaxError) and error.filename:
        return place([(error.filename, error.lineno or 0)])
    stack = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return place(stack[::-1])


def place(frames: Iterable[tuple[str, int]]) -> str | None:
    """Of the files and lines of a stack, innermost first, the first that is not in a library, as ``file:line``.

    If all are in libraries, it is the innermost; None if there is none, or if it is in this package's own machinery.
    """
    real = [(file, line) for file, line in frames if not file.startswith("<") and not _is_ours(file)]
    own = [frame for frame in real if not _is_library(frame[0])]
    if not real:
        return None
    file, line = (own or real)[0]
    path, folder = os.path.realpath(file), os.path.realpath(os.getcwd())
    return f"{os.path.relpath(path, folder) if path.startswith(folder + os.sep) else file}:{line}"


def trace(error: BaseException) -> str:
    """The whole traceback of an exception, without this package's own frames at its beginning."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None and _is_ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))[-_LONGEST:]


_HERE = os.path.realpath(Path(__file__).parent)
_MACHINERY = {os.path.join(_HERE, f"{name}.py") for name in ("attempt", "candidate", "exchange", "isolate", "run")}
_LIBRARIES = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def _is_ours(file: str) -> bool:
    return os.path.realpath(file) in _MACHINERY


def _is_library(file: str) -> bool:
    path = os.path.realpath(file)
    return path.startswith(_LIBRARIES) or path.startswith(os.path.dirname(_HERE) + os.sep)
