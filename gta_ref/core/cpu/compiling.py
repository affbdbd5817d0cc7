"""Compiling the CPU kernels: one type signature at a time, cached on disk, with a notice when it takes long."""

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

# what a kernel's own code may assume: sums may be reordered and multiply-adds fused; NaN and infinity stay
FLAGS = {"reassoc", "contract", "nsz", "arcp"}

# the files of this folder whose functions end up in a kernel's machine code
SOURCES = ("backward", "compiling", "forward", "llvm", "rows", "tile", "vectors")
# A number that changes with any of them. It is read when this module is: a file edited later is not what runs here.
STAMP = zlib.crc32(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES))

NOTICE_AFTER = 2.0  # seconds
_lock = threading.RLock()
_told = False


def compiled(kernel: Callable[..., Any], signature: Any, **options: Any) -> Callable[..., Any]:
    """Compile a kernel for one signature, or load it from the cache. `options` are Numba's."""
    kernel = stamped(kernel)
    with _lock, _notice():
        try:
            return njit(signature, nogil=True, fastmath=FLAGS, cache=True, **options)(kernel)
        except (OSError, RuntimeError):  # no folder to cache in, or none that takes the file
            return njit(signature, nogil=True, fastmath=FLAGS, **options)(kernel)


def inlined(**options: Any) -> Callable[..., Any]:
    """Compile a function into every kernel that calls it.

    A helper that is linked as a symbol of its own may be other machine code in the process that compiles a kernel than
    in one that reads the kernel from the cache, and results would differ in their last bits.
    """
    return njit(forceinline=True, **options)


def stamped(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a kernel under a qualified name that ends in STAMP.

    Numba compares its cache with the date of a kernel's own file, not of the files whose functions the kernel calls.
    The qualified name is part of the cache's file name, so a kernel whose sources have changed finds no old code.
    """
    copy = FunctionType(kernel.__code__, kernel.__globals__, kernel.__name__)
    copy.__module__ = kernel.__module__
    copy.__qualname__ = f"{kernel.__qualname__}_{STAMP:08x}"
    return copy


def once(build: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what `build` returns for its arguments; threads that come at the same time wait for one building."""
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
    """Say once, on stderr, that the block takes long because it compiles."""
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
