"""The worker threads of the engine "numba" and of training, and BLAS held to one thread while they run.

Workers are plain Python threads, and the kernels that they run release the GIL. Numba's own `prange` is not used,
because it aborts the process when two Python threads are in it at once. The work of each thread is fixed before any of
them starts, so results do not depend on which thread is faster.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import numpy as np

from gta_ref.errors import as_int

_lock = threading.Lock()
_local = threading.local()
_chosen: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def set_threads(n: int | None) -> None:
    """Set the number of threads that the engine "numba" and training use; None restores the default."""
    global _chosen
    _chosen = None if n is None else as_int("n", n, at_least=1)


def chosen() -> int | None:
    """The number that was last passed to set_threads, or None for the default."""
    return _chosen


def get_threads() -> int:
    """Number of threads that the engine "numba" and training use.

    It is the number passed to set_threads, else NUMBA_NUM_THREADS, else the number of cores that the process may use.
    Within :func:`run`, where every core already has work, it is 1.
    """
    if getattr(_local, "working", False):
        return 1
    if _chosen is not None:
        return _chosen
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_environment() -> None:
    """Raise ValueError if NUMBA_NUM_THREADS is below 1. Numba refuses it too, but does not name the variable."""
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    try:
        number = int(wanted)
    except ValueError:  # not set, or not a number: Numba then uses its default
        return
    if number < 1:
        raise ValueError(f"NUMBA_NUM_THREADS={number} must be a whole number of at least 1")


def run(count: int, work: Callable[[int], None]) -> None:
    """Run work(0) … work(count − 1) at the same time, work(0) in the calling thread; return when all have finished."""
    if count == 1:
        work(0)
        return
    others = _submit(count - 1, work)
    try:
        _work(work, 0)
    finally:
        # even after an error, no worker may write to the caller's arrays once this function has returned
        for other in others:
            other.exception()
    for other in others:
        other.result()


def _submit(count: int, work: Callable[[int], None]) -> list[Future[None]]:
    global _pool, _pool_size
    with _lock:  # no other thread may replace the pool between looking it up and using it
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)  # it still finishes the work that it has received
            _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="gta_ref"), count
        # NumPy keeps errstate in the context of a thread: copy it to the workers
        return [_pool.submit(copy_context().run, _work, work, i + 1) for i in range(count)]


def _work(work: Callable[[int], None], i: int) -> None:
    before = getattr(_local, "working", False)
    _local.working = True
    try:
        work(i)
    finally:
        _local.working = before


def workspace(n: int, dtype: Any) -> np.ndarray:
    """Scratch memory of this thread for n numbers, aligned to a cache line, not cleared, and kept for the next call."""
    size = n * np.dtype(dtype).itemsize + 64
    held = getattr(_local, "memory", None)
    if held is None or held.size < size:
        held = _local.memory = np.empty(size, np.uint8)
    skip = -held.ctypes.data % 64
    return held[skip : skip + size - 64].view(dtype)


class BlasGuard:
    """Holds every BLAS of the process to one thread while at least one user is inside.

    threadpool_limits alone remembers one number per user. If two users overlap, the last to leave would restore the
    limit that the first had set. Here the first to enter remembers the number, and the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Limit BLAS to one thread within the block."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._users == 0:
                if self._libraries is None:  # searching the loaded libraries takes milliseconds
                    import scipy.linalg  # noqa: F401 - the kernels call its BLAS, which can be found only once it is loaded
                    from threadpoolctl import ThreadpoolController

                    self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
                self._before = [library.get_num_threads() for library in self._libraries]
                for library in self._libraries:
                    library.set_num_threads(1)
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()

    def _restore(self) -> None:
        for library, threads in zip(self._libraries or [], self._before, strict=True):
            library.set_num_threads(threads)

    def forget(self) -> None:
        """Restore the settings and start again in a forked child, where the users of the parent do not exist."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            self._restore()


blas = BlasGuard()


def _after_fork() -> None:
    """Start again in a forked child: it has none of the threads, and a lock that one of them held would stay locked."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0
    blas.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
