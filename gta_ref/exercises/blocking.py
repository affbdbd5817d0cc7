"""Block the library's functions while a student's function runs.

A function is blocked by exchanging its code object, so every reference to it is blocked with it: a name imported
into the notebook, a closure, a partial, a default argument. This catches an oversight; it does not stop a student who
wants to cheat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isgeneratorfunction
from types import FunctionType, ModuleType
from typing import Any

PACKAGES = ("gta_ref", "gta_cuda")
# never blocked: the checks themselves, and the helpers that allowed operations use
FREE = ("gta_ref.exercises", "gta_ref.errors", "gta_ref.ops.arrays")

_called: list[str] = []


class LibraryCalledError(RuntimeError):
    """An exercise's answer called a function of the library instead of computing the result itself."""


def stop(name: str) -> None:
    """Note that a blocked function was called, and raise."""
    _called.append(name)
    raise LibraryCalledError(f"{name} is blocked in this exercise")


@contextmanager
def blocked(allowed: Iterable[str] = ()) -> Iterator[list[str]]:
    """Block the library's functions inside a ``with`` block, except those of the modules `allowed`.

    Yields
    ------
    called : list of str
        Names of the blocked functions that were called, in order; it is filled while the block runs.

    Notes
    -----
    The library is blocked for the whole process, so do not use this while other threads need the library.
    """
    free = (*FREE, *allowed)
    _called.clear()
    exchanged: list[tuple[FunctionType, Any]] = []
    finder = _Refuse(free)
    try:
        for function in list(_functions(free)):
            name = f"{function.__module__}.{function.__qualname__}"
            code = (_stand_in_generator if isgeneratorfunction(function) else _stand_in).__code__
            constants = tuple(name if c == "NAME" else c for c in code.co_consts)
            exchanged.append((function, function.__code__))
            function.__code__ = code.replace(co_consts=constants, co_name=function.__name__)
        sys.meta_path.insert(0, finder)
        yield _called
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        for function, code in exchanged:
            function.__code__ = code


def _stand_in(*args: Any, **kwargs: Any) -> None:
    # runs with the blocked function's globals, so it imports what it needs; NAME becomes the function's name
    from gta_ref.exercises import blocking

    blocking.stop("NAME")


def _stand_in_generator(*args: Any, **kwargs: Any) -> Iterator[None]:
    # Python 3.13 and newer do not like a generator to become a plain function
    from gta_ref.exercises import blocking

    blocking.stop("NAME")
    yield


class _Refuse:
    """Refuses to import modules of the library that are not loaded yet, since their functions are not blocked."""

    def __init__(self, free: Sequence[str]) -> None:
        self.free = free

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if _ours(name) and not _within(name, self.free):
            stop(name)


def _ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def _within(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _functions(free: Sequence[str]) -> Iterator[FunctionType]:
    """Every function of the library's loaded modules, methods included, each once."""
    seen: set[int] = set()
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or not _ours(module_name) or _within(module_name, free):
            continue
        for member in list(vars(module).values()):
            inside = vars(member).values() if isinstance(member, type) else (member,)
            for one in inside:
                function = _plain(one)
                # a closure's code cannot be exchanged; what it wraps can
                if function is None or function.__code__.co_freevars or id(function) in seen:
                    continue
                if _ours(function.__module__ or "") and not _within(function.__module__, free):
                    seen.add(id(function))
                    yield function


def _plain(member: Any) -> FunctionType | None:
    """The Python function inside a static method, a class method, a property or a decorator; None if there is none."""
    member = getattr(member, "__func__", member)
    member = getattr(member, "fget", member)
    member = getattr(member, "__wrapped__", member)
    return member if isinstance(member, FunctionType) else None
