"""A time limit within this process, where a student's function cannot have a process of its own."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any


class TooLong(BaseException):
    """Raised in a function that takes too long; not an Exception, so that ``except Exception`` does not catch it."""


def endless(seconds: float) -> str:
    """What a function that has not returned in time is told."""
    return f"The function has not returned after {seconds:g} s. Does a loop never end?"


def limited(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Make a function that is interrupted if it has not returned after some seconds.

    Python raises the error between two of its own steps, in any thread and on every system. A single step that never
    ends, such as ``sum(itertools.count())``, is not interrupted.

    Parameters
    ----------
    function : callable
    seconds : float

    Returns
    -------
    callable
        Raises :class:`TooLong`.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        thread = ctypes.c_ulong(threading.get_ident())
        lock, done = threading.Lock(), False

        def interrupt() -> None:
            with lock:
                if not done:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TooLong))

        timer = threading.Timer(seconds, interrupt)
        timer.daemon = True
        timer.start()
        try:
            return function(*arguments)
        except TooLong as late:
            raise TooLong(endless(seconds)).with_traceback(late.__traceback__) from None
        finally:
            timer.cancel()
            with lock:
                done = True

    return call
