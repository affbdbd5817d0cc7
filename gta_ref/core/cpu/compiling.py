"""Compiling the CPU kernels, one type signature at a time: a cache on disk, and a notice if compiling takes long."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import njit

# what LLVM may do with a kernel's own code: reorder sums and fuse multiply-adds, but not assume away NaN and infinity
FLAGS = {"reassoc", "contract", "nsz", "arcp"}

# the files of this folder whose functions end up in a kernel's machine code
SOURCES = ("backward", "compiling", "forward", "llvm", "rows", "tile", "vectors")
# A checksum of these files. It is computed on import: if a file is edited later, this process still runs the old code.
STAMP = zlib.crc32(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES))

NOTICE_AFTER = 2.0  # seconds
_lock = threading.RLock()
_told = False


def compiled(kernel: Callable[..., Any], signature: Any, **options: Any) -> Callable[..., Any]:
    """Compile a kernel for one signature, or load it from the cache. `options` are those of Numba's ``njit``."""
    kernel = stamped(kernel)
    found: Callable[..., Any]
    with _lock, _notice():
        try:
            found = njit(signature, nogil=True, fastmath=FLAGS, cache=True, **options)(kernel)
        except (OSError, RuntimeError):  # there is no folder for the cache, or the file cannot be written there
            found = njit(signature, nogil=True, fastmath=FLAGS, **options)(kernel)
    return found


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
    """Cache the results of `build` by its arguments. Threads that need one at the same time wait for a single call."""
    kept: dict[tuple[Any, ...], Any] = {}
    lock = threading.Lock()

    @wraps(build)
    def get(*key: Any) -> Any:
        if key not in kept:
            with lock:
                if key not in kept:
                    kept[key] = build(*key)
        return kept[key]

    return get


@contextmanager
def _notice() -> Iterator[None]:
    """Print a notice on stderr if the block takes longer than NOTICE_AFTER; at most once per process."""
    timer = threading.Timer(NOTICE_AFTER, _tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell() -> None:
    global _told
    if not _told:
        _told = True
        print("gta_ref: compiling the CPU kernels for this machine; it takes some seconds, once", file=sys.stderr)
