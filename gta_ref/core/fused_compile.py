"""Compiling the fused kernels: one type signature at a time, cached on disk, not silently when it takes long."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from numba import njit

# what a kernel's own code may assume: sums may be reordered and multiply-adds fused; NaN and infinity stay
FLAGS = {"reassoc", "contract", "nsz", "arcp"}

SOURCES = ("backward", "compile", "forward", "kernels", "llvm", "rows", "vectors")  # fused_*.py
# changes with any of them; read with the code, as a file that is edited later is not what runs here
STAMP = zlib.crc32(b"".join(Path(__file__).with_name(f"fused_{name}.py").read_bytes() for name in SOURCES)) or 1

NOTICE_AFTER = 2.0  # seconds
_lock = threading.RLock()
_told = False


def compiled(make: Callable[[int], Callable[..., Any]], signature: Any, **options: Any) -> Callable[..., Any]:
    """Compile the kernel that `make` returns for one signature, or load it from the cache.

    `make` takes the stamp of the kernels' source and has its kernel refer to it. Numba compares the time of a
    kernel's own file with its cache, not of the files whose functions it calls; a number that a kernel closes
    over is part of the cache's key. `options` are Numba's.
    """
    kernel = make(STAMP)
    with _lock, _notice():
        try:
            return njit(signature, nogil=True, fastmath=FLAGS, cache=True, **options)(kernel)
        except (OSError, RuntimeError):  # no folder to cache in, or none that takes the file
            return njit(signature, nogil=True, fastmath=FLAGS, **options)(kernel)


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
        print("gta_ref: compiling the fused kernels for this machine; it takes some seconds, once", file=sys.stderr)
