"""Settings of a whole process that make NumPy's work faster: for the command gta-ref and the processes that it starts.

The library never calls this: a process belongs to the program that runs in it.
"""

from __future__ import annotations

import ctypes
import os
import platform

# of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def set_up() -> None:
    """Call before NumPy is imported."""
    # OpenBLAS reads it when NumPy is imported. After a product its threads look for more work, for 0.1 s by default,
    # on the cores that the fused engine's threads need then: docs/kernels.md has what that costs.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")  # 2^20 cycles, below a millisecond
    keep_memory()


def keep_memory() -> None:
    """Have arrays of up to 32 MiB, and all threads, take memory that was freed before, with glibc's malloc.

    By default large arrays are given back to the system when they are freed, and each page of the next one is a page
    fault: about 7 % of a training step of ``gta-ref bench lm``. Larger arrays, whose cost is the work on them, still go
    back.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that it takes
    mallopt(M_TRIM_THRESHOLD, 2**30)
    mallopt(M_ARENA_MAX, 1)
