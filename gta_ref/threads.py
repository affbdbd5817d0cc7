"""The worker threads of the fused engine and of training, and BLAS held to one thread while they run.

Workers are plain threads in kernels that let go of the GIL: Numba's own `prange` aborts the process when two
Python threads are in it at once. Who does what is decided before the work starts, so a result does not depend
on which thread was faster.
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
    """Let the fused engine and training use `n` threads; None goes back to the default."""
    global _chosen
    _chosen = None if n is None else as_int("n", n, at_least=1)


def chosen() -> int | None:
    """What set_threads was last given."""
    return _chosen


def get_threads() -> int:
    """How many threads the fused engine and training use: set_threads, else NUMBA_NUM_THREADS, else the cores allowed.

    Inside :func:`run`, where every core has its work already, it is one.
    """
    if getattr(_local, "working", False):
        return 1
    if _chosen is not None:
        return _chosen
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(count: int, work: Callable[[int], None]) -> None:
    """Do work(0) … work(count − 1) at the same time, the first of them in this thread; return when all are done."""
    if count == 1:
        work(0)
        return
    others = _submit(count - 1, work)
    try:
        _work(work, 0)
    finally:
        # whatever went wrong, nobody writes into a caller's arrays once this has returned
        for other in others:
            other.exception()
    for other in others:
        other.result()


def _submit(count: int, work: Callable[[int], None]) -> list[Future]:
    global _pool, _pool_size
    with _lock:  # nobody replaces the pool between looking it up and using it
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)  # what it has been given, it still does
            _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="gta_ref"), count
        # NumPy's errstate belongs to the context of the thread that set it
        return [_pool.submit(copy_context().run, _work, work, i + 1) for i in range(count)]


def _work(work: Callable[[int], None], i: int) -> None:
    before = getattr(_local, "working", False)
    _local.working = True
    try:
        work(i)
    finally:
        _local.working = before


def workspace(n: int, dtype: Any) -> np.ndarray:
    """Scratch memory of this thread, kept for its next call: n numbers, not cleared, on a cache line's boundary."""
    size = n * np.dtype(dtype).itemsize + 64
    held = getattr(_local, "memory", None)
    if held is None or held.size < size:
        held = _local.memory = np.empty(size, np.uint8)
    skip = -held.ctypes.data % 64
    return held[skip : skip + size - 64].view(dtype)


class BlasGuard:
    """Holds every BLAS of the process to one thread while at least one user is inside.

    threadpool_limits alone remembers one number a user: of two users whose stays overlap, the last to leave
    restores the limit that the first had set. Here the first to come remembers and the last to leave restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Limit BLAS inside the block."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._users == 0:
                if self._libraries is None:  # looking through the loaded libraries takes milliseconds
                    import scipy.linalg  # noqa: F401 - its BLAS, the kernels' own, has to be there to be found
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
        """In a forked child, where the users of the parent do not exist: restore and start again."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            self._restore()


blas = BlasGuard()


def _after_fork() -> None:
    """Threads do not come along into a child, and a lock may be held there by nobody."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0
    blas.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
