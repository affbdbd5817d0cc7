"""The most memory that a process holds during a call."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """Measures the peak of memory between :meth:`begin` and :meth:`peak`.

    Parameters
    ----------
    apart : bool
        Whether the process is the function's own, so that what it holds in memory (RSS) is due to the function. Linux
        alone can forget an earlier peak. Otherwise tracemalloc counts what NumPy and Python allocate, and does not see
        the memory of other libraries, such as PyTorch.

    Attributes
    ----------
    everything : bool
        Whether the memory of every library is counted.
    """

    def __init__(self, apart: bool) -> None:
        self.everything = apart and _forgets()
        self._before, self._running = 0, tracemalloc.is_tracing()

    def begin(self) -> None:
        """Take what is held now as the start."""
        if self.everything:
            _tidy()
            CLEAR.write_text("5", encoding="ascii")
            self._before = held("VmRSS")
            return
        if not self._running:
            tracemalloc.start()
        tracemalloc.reset_peak()
        self._before, _ = tracemalloc.get_traced_memory()

    def peak(self) -> int:
        """The most bytes held since :meth:`begin`, beyond those held then."""
        if self.everything:
            return max(0, held("VmHWM") - self._before)
        _, most = tracemalloc.get_traced_memory()
        if not self._running:
            tracemalloc.stop()
        return most - self._before


def held(field: str) -> int:
    """A field of Linux's status of this process, in bytes: VmRSS, VmHWM, VmData."""
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _forgets() -> bool:
    """Whether this system can forget an earlier peak."""
    try:
        CLEAR.write_text("5", encoding="ascii")
        return held("VmHWM") >= 0
    except (OSError, StopIteration):
        return False


def _tidy() -> None:
    """Give free memory back: what malloc keeps would hide what the function takes."""
    gc.collect()
    with suppress(AttributeError, OSError):  # other C libraries than glibc have no malloc_trim
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
