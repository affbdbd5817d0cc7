"""Compiling the CPU kernels, one type signature at a time: a cache on disk, and a notice if compiling takes long."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import njit

from gta_ref.core.engines import EngineError

# what LLVM may do with a kernel's own code: reorder sums and fuse multiply-adds, but not assume away NaN and infinity
FLAGS = {"reassoc", "contract", "nsz", "arcp"}

# the files of this folder whose functions end up in a kernel's machine code
SOURCES = (
    "backward", "compiling", "decode", "dots", "forward", "forward_bf16", "lanes", "llvm", "matrix_units", "memory",
    "merging", "pairs", "products", "softmax", "tiles", "turning",
)  # fmt: skip
# A checksum of these files. It is computed on import: if a file is edited later, this process still runs the old code.
STAMP = zlib.crc32(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES))

NOTICE_AFTER = 2.0  # seconds
_lock = threading.RLock()
_told: set[str] = set()


def compiled(kernel: Callable[..., Any], signature: Any, *, strict: bool = False, **options: Any) -> Callable[..., Any]:
    """Compile a kernel for one signature, or load it from the cache.

    Parameters
    ----------
    kernel, signature
        A function and the Numba signature for which it is compiled.
    strict : bool
        Whether LLVM has to compute the kernel's numbers exactly as written; the default is FLAGS. Division by 0 gives
        infinity or NaN then.
    options
        Those of Numba's ``njit``.
    """
    options = {"error_model": "numpy", **options} if strict else {"fastmath": FLAGS, **options}
    found: Any = njit(nogil=True, **options)(stamped(kernel))
    with _lock, _Notice() as notice:
        try:
            found.enable_caching()
        except (OSError, RuntimeError) as error:  # there is no folder in which files can be written
            _say_uncached(error)
            notice.start()
        else:
            found._cache = _Cache(found._cache, notice)
        found.compile(signature)
        found.disable_compile()
    return found  # type: ignore[no-any-return]


def entry(found: Any) -> Callable[..., None]:
    """The machine code of a kernel that was compiled for one signature, as a function of numbers of any type.

    Numba's own call first compares the arguments' types with the signature, which takes as long as all the rest of a
    small call's way to the machine code if the caches hold other data.
    """
    (only,) = found.overloads.values()
    return only.entry_point  # type: ignore[no-any-return]


class _Cache:
    """Numba's cache of one kernel, where no file can do harm: one that cannot be read or written counts as missing.

    Numba raises whatever pickle, the file system or its index raises: EOFError for a file that was cut off, OSError for
    a full disk. If another process wrote at the same time, an entry may hold the code for other arguments.
    """

    def __init__(self, cache: Any, notice: _Notice) -> None:
        self._cache = cache
        self._notice = notice
        self.cache_path = cache.cache_path

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = self._loaded(signature, target)
        if found is None:
            self._notice.start()
        return found

    def _loaded(self, signature: Any, target: Any) -> Any:
        try:
            found = self._cache.load_overload(signature, target)
            if found is not None and tuple(found.signature.args) != tuple(signature.args):
                raise ValueError("a file holds the code for other arguments")
        except Exception as error:
            _say_uncached(error)
            with suppress(OSError):  # the index, so that the next process does not meet the same file
                Path(self._cache._cache_file._index_path).unlink(missing_ok=True)
            return None
        return found

    def save_overload(self, signature: Any, found: Any) -> None:
        try:
            self._cache.save_overload(signature, found)
        except Exception as error:
            _say_uncached(error)

    def flush(self) -> None:
        self._cache.flush()


def inlined(**options: Any) -> Callable[..., Any]:
    """Decorate a helper function so that it is compiled into every kernel that calls it.

    A helper that is linked as a symbol of its own may have different machine code in the process that compiles a kernel
    and in one that reads the kernel from the cache. Results would then differ in their last bits.
    """
    decorator: Callable[..., Any] = njit(forceinline=True, **options)
    return decorator


def stamped(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a kernel under a qualified name that ends in STAMP.

    Numba compares its cache only with the date of the kernel's own file, not with the files of the functions that the
    kernel calls. The qualified name is part of the name of the cache file, so a kernel whose sources have changed does
    not find the old code.
    """
    copy = FunctionType(kernel.__code__, kernel.__globals__, kernel.__name__)
    copy.__module__ = kernel.__module__
    copy.__qualname__ = f"{kernel.__qualname__}_{STAMP:08x}"
    return copy


def once(build: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the results of `build` by its arguments. Threads that need one at the same time wait for a single call.

    A signal handler that needs one while the code that it has interrupted builds one would wait forever: it gets an
    EngineError instead.
    """
    kept: dict[tuple[Any, ...], Any] = {}
    lock = threading.RLock()
    building = False

    @wraps(build)
    def get(*key: Any) -> Any:
        nonlocal building
        if key not in kept:
            with lock:
                if building:  # by this thread, as others wait for the lock
                    raise EngineError(
                        "engine 'numba' is being compiled, by the code that this call has interrupted; "
                        "call it once before a signal handler may call it"
                    )
                building = True
                try:
                    if key not in kept:
                        kept[key] = build(*key)
                finally:
                    building = False
        return kept[key]

    return get


class _Notice:
    """A notice on stderr if compiling takes longer than NOTICE_AFTER from `start` on; at most once per process."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Begin to count the time: nothing was found in the cache, so the kernel is compiled."""
        if self._timer is None:
            self._timer = threading.Timer(NOTICE_AFTER, _tell)
            self._timer.daemon = True
            with suppress(RuntimeError):  # when Python ends there are no new threads
                self._timer.start()

    def __enter__(self) -> _Notice:
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _tell() -> None:
    _say("compiling the CPU kernels for this machine; it takes some seconds, once")


def _say_uncached(error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0]
    _say(f"the cache of compiled kernels cannot be used ({type(error).__name__}: {reason}); compiling without it")


def _say(what: str) -> None:
    """Print a line on stderr, of each kind at most once per process."""
    kind = what[:9]
    if kind not in _told:
        _told.add(kind)
        print(f"gta_ref: {what}", file=sys.stderr)
