"""The worker threads of the engine "numba" and of training, and BLAS held to one thread while they run.

Workers are plain Python threads, and the kernels that they run release the GIL. Numba's own `prange` is not used,
because it aborts the process when two Python threads are in it at once. The work of each thread is fixed before any of
them starts, so results do not depend on which thread is faster.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, NamedTuple

from gta_ref.errors import as_int

_local = threading.local()
_chosen: int | None = None


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
    """Run work(0) … work(count − 1) at the same time, work(0) in the calling thread; return when all have finished.

    Parts for which there is no thread run in the calling thread, one after another. There is none in a signal handler
    that has interrupted the start of one, and there may be none when Python ends or the system allows no more.
    """
    if count == 1:
        work(0)
        return
    finished: SimpleQueue[BaseException | None] = SimpleQueue()
    given = _hand_out(count - 1, work, finished)
    errors: list[BaseException | None] = []
    try:
        for i in (0, *range(given + 1, count)):
            _work(work, i)
    finally:
        # even after an error, no worker may write to the caller's arrays once this function has returned
        while len(errors) < given:
            errors.append(finished.get())
    for error in errors:
        if error is not None:
            raise error


def _hand_out(count: int, work: Callable[[int], None], finished: SimpleQueue[BaseException | None]) -> int:
    """Give work(1) … work(n) to the workers and return n, which is 0 or `count`; `finished` receives n results.

    SimpleQueue is the one queue of Python that a signal handler may use while the code that it has interrupted does.
    """
    if not _workers.grow(count):
        return 0
    for i in range(1, count + 1):
        # NumPy keeps errstate in the context of a thread: copy it to the workers
        _workers.tasks.put((copy_context(), work, i, finished))
    return count


class _Workers:
    """Threads that wait for work; they end with the process."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Any] = SimpleQueue()
        self._count = 0
        self._starting: int | None = None  # the thread that starts more
        self._lock = threading.RLock()

    def grow(self, count: int) -> bool:
        """Start threads until there are `count`; return whether there are any.

        A signal handler that has interrupted a start gets no more: the module threading would wait for itself.
        """
        if self._count < count and self._starting != threading.get_ident():
            with self._lock:
                self._starting = threading.get_ident()
                try:
                    while self._count < count:
                        name = f"gta_ref_{self._count}"
                        threading.Thread(target=_serve, args=(self.tasks,), name=name, daemon=True).start()
                        self._count += 1
                except RuntimeError:  # Python ends, or the system allows no more threads
                    pass
                finally:
                    self._starting = None
        return self._count > 0


def _serve(tasks: SimpleQueue[Any]) -> None:
    while True:
        context, work, i, finished = tasks.get()
        error: BaseException | None = None
        try:
            context.run(_work, work, i)
        except BaseException as raised:
            error = raised
        finished.put(error)
        del context, work, finished, error  # not kept until the next task: they hold the caller's arrays


def _work(work: Callable[[int], None], i: int) -> None:
    before = getattr(_local, "working", False)
    _local.working = True
    try:
        work(i)
    finally:
        _local.working = before


_workers = _Workers()


class BlasGuard:
    """Holds every BLAS of the process to one thread while at least one user is inside.

    The first to enter remembers each library's number of threads, and the last to leave restores it. Users may be in
    several threads, and a signal handler may be one while the code that it has interrupted enters or leaves: the lock
    lets a thread pass twice, and every step of entering and of leaving can be done twice.

    OpenBLAS is called directly. threadpoolctl 3.8 lets only one thread of the process set its number: calls from all
    others do nothing. A build of OpenBLAS with OpenMP has a number per thread, and there this class sets that of the
    thread that enters.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users: dict[object, int] = {}  # each with its thread
        self._libraries: list[_Library] | None = None
        self._before: list[int] | None = None  # while it is not None, the libraries have other numbers than the user's

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Limit BLAS to one thread within the block."""
        if self._libraries is None:
            self._libraries = _blas_libraries()
        user = object()
        try:
            self._enter(user, self._libraries)
            yield
        finally:
            self._leave(user)

    def _enter(self, user: object, libraries: list[_Library]) -> None:
        with self._lock:
            self._users[user] = threading.get_ident()
            numbers = [library.get_num_threads() for library in libraries] if self._before is None else []
            if self._before is None:  # still: a signal handler may have been here, and their numbers are 1 since
                self._before = numbers
            for library in libraries:  # even if they have been set: a signal handler may be here before that
                library.set_num_threads(1)

    def _leave(self, user: object) -> None:
        with self._lock:
            self._users.pop(user, None)  # if the entering was interrupted, it may not be there
            self._restore()

    def _restore(self) -> None:
        before = self._before
        if not self._users and before is not None:
            for library, threads in zip(self._libraries or [], before, strict=True):
                library.set_num_threads(threads)
            self._before = None

    def before_fork(self) -> None:
        """Wait until no thread is about to set a number: OpenBLAS would start its threads again during the fork."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Go on in the parent."""
        self._lock.release()

    def forget(self) -> None:
        """Keep only the users of this thread, in a forked child, which has no others; without any, restore the BLAS."""
        self._lock = threading.RLock()
        self._users = {user: thread for user, thread in self._users.items() if thread == threading.get_ident()}
        self._restore()


class _Library(NamedTuple):
    """The functions of one BLAS; those of threadpoolctl have the same names."""

    get_num_threads: Callable[[], int]
    set_num_threads: Callable[[int], Any]


def _blas_libraries() -> list[_Library]:
    """Search the loaded libraries for BLAS; takes milliseconds."""
    import scipy.linalg  # noqa: F401 - the kernels call its BLAS, which can be found only once it is loaded
    from threadpoolctl import ThreadpoolController

    found = []
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        own = None
        if library.internal_api == "openblas" and library.threading_layer != "openmp":
            own = _openblas(library.filepath)
        found.append(own or library)
    return found


def _openblas(path: str) -> _Library | None:
    """The functions of an OpenBLAS that is loaded; None if it has them under names that are not known here."""
    library = ctypes.CDLL(path)
    for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):  # as builds for 64-bit sizes have them
        names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
        get, put = (getattr(library, name, None) for name in names)
        if get is not None and put is not None:
            get.restype, put.argtypes, put.restype = ctypes.c_int, [ctypes.c_int], None
            return _Library(get, put)
    return None


blas = BlasGuard()


def _after_fork_in_child() -> None:
    """Start again: the child has none of the threads, and a lock that one of them held would stay locked."""
    global _workers
    _workers = _Workers()
    blas.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=blas.before_fork, after_in_parent=blas.after_fork, after_in_child=_after_fork_in_child)
