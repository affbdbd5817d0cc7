"""The machine of a benchmark: its name, its software versions, and the two ceilings to which speeds are compared."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.packages import version
from gta_ref.threads import get_threads, run

GEMM_SIZE = 2048
READ_BYTES = 2**29
BLAS_FACTS = ("internal_api", "version", "architecture")
PACKAGES = ("numpy", "scipy", "numba", "torch")


def seconds(work: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def describe() -> dict[str, Any]:
    """The CPU, number of threads and versions, and each BLAS with the kernel that it has chosen for this CPU."""
    from scipy.linalg import cython_blas  # noqa: F401  loads the BLAS that the engine "numba" calls
    from threadpoolctl import threadpool_info

    return {
        "cpu": _cpu(),
        "threads": get_threads(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name)) is not None},
        "blas": [
            {
                "of": _owner(pool["filepath"]),
                **{key: pool.get(key) for key in BLAS_FACTS},
            }
            for pool in threadpool_info()
            if pool.get("user_api") == "blas"
        ],
    }


def _owner(path: str) -> str:
    """The package to which a BLAS library belongs."""
    return Path(path).parent.name.removesuffix(".libs")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Ceilings:
    """The machine's ceilings: a large sgemm and a read of memory, both with all threads.

    They are measured between the contestants, so that all have the same conditions.
    """

    def __init__(self) -> None:
        from numba import njit

        rng = np.random.default_rng(0)
        self._a = rng.standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
        self._c = np.empty_like(self._a)
        self._memory = np.ones(READ_BYTES // 4, np.float32)

        @njit(nogil=True, fastmath=True)  # fastmath allows vector loads; the sum itself is not used
        def read(x: Any) -> Any:
            total = x[0]
            for i in range(len(x)):
                total += x[i]
            return total

        self._read = read
        self.gemm()
        self.read()

    def gemm(self) -> float:
        """Operations per second of a float32 matrix product, by NumPy's BLAS."""
        return 2 * GEMM_SIZE**3 / seconds(lambda: np.matmul(self._a, self._a, out=self._c))

    def read(self) -> float:
        """Bytes per second of reading an array that is larger than any cache."""
        parts = np.array_split(self._memory, get_threads())
        return READ_BYTES / seconds(lambda: run(len(parts), lambda i: self._read(parts[i])))
