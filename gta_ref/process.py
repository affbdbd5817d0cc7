"""Settings of a whole process for the command gta-ref: NumPy is faster, and any terminal can show what is printed.

The library never applies them by itself: the settings of a process are the choice of the program that runs in it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPPED = "gta-ref: stopped"
INTERRUPTED = 130  # the exit status after Ctrl-C: 128 and the number of the signal
# parameters of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def set_up() -> None:
    """Apply all settings; to be called before NumPy is imported."""
    end_on_interrupt()
    # OpenBLAS reads this variable when NumPy is imported. At the end of a product its threads wait actively for more
    # work, for 0.1 s by default, on cores that the engine "numba" needs; docs/kernels.md shows the cost.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")  # 2^20 cycles, less than a millisecond
    keep_memory()
    fit_terminal()


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, with one line and status 130, until :func:`interruptible`.

    While modules are imported, nothing has begun that has to be brought to an end, and an exception could be raised
    anywhere. A process that ignores Ctrl-C, as a shell's background jobs do, goes on doing so.
    """
    main = threading.current_thread() is threading.main_thread()  # only there a handler can be set
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt within the block, as it does without this module."""
    ours = signal.getsignal(signal.SIGINT) is _end
    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        # If Ctrl-C interrupts an exec of a text, Python remembers it, and ends by SIGINT whatever the exit status is.
        # Another exec makes it forget.
        exec("")
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, _end)


def _end(*_: Any) -> None:
    os.write(2, STOPPED.encode() + b"\n")  # print could have been interrupted itself
    os._exit(INTERRUPTED)


def fit_terminal() -> None:
    """Print characters that the output's encoding lacks as escapes, and ignore a COLUMNS that is no width.

    Without this, ÷ on an ASCII terminal ends the command, and with COLUMNS=0 every table is empty.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python does for stderr
    columns = os.environ.get("COLUMNS", "")
    if columns and not columns.strip("0"):
        del os.environ["COLUMNS"]


def keep_memory() -> None:
    """Let glibc's malloc reuse the memory of freed arrays of up to 32 MiB, in all threads.

    By default the memory of large arrays is returned to the system when they are freed, and each page of the next
    array causes a page fault. This takes about 7 % of a training step of ``gta-ref bench lm``. Memory of larger arrays
    is still returned; their cost is dominated by the work on them.
    """
    import ctypes  # here, so that the command is ready for Ctrl-C before these two are imported
    import platform

    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that it accepts
    mallopt(M_TRIM_THRESHOLD, 2**30)
    mallopt(M_ARENA_MAX, 1)


def signal_name(number: int) -> str:
    """The name of a signal, such as "SIGKILL"; "signal 35" for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
