"""The machine under a benchmark: its name, its versions, and the two ceilings that every speed is compared with."""

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
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def describe() -> dict[str, Any]:
    """CPU, threads, versions, and each BLAS with the kernel that it chose for this CPU."""
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
    """The package that a BLAS library came with."""
    return Path(path).parent.name.removesuffix(".libs")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Ceilings:
    """A large sgemm and a read of memory, both with all threads; measured between other things, so in the same air."""

    def __init__(self) -> None:
        from numba import njit

        rng = np.random.default_rng(0)
        self._a = rng.standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
        self._c = np.empty_like(self._a)
        self._memory = np.ones(READ_BYTES // 4, np.float32)

        @njit(nogil=True, fastmath=True)  # vector loads: the sum itself is of no interest
        def read(x: Any) -> Any:
            total = x[0]
            for i in range(len(x)):
                total += x[i]
            return total

        self._read = read
        self.gemm()
        self.read()

    def gemm(self) -> float:
        """Operations a second of a float32 matrix product, by NumPy's BLAS."""
        return 2 * GEMM_SIZE**3 / seconds(lambda: np.matmul(self._a, self._a, out=self._c))

    def read(self) -> float:
        """Bytes a second of reading memory that fits no cache."""
        parts = np.array_split(self._memory, get_threads())
        return READ_BYTES / seconds(lambda: run(len(parts), lambda i: self._read(parts[i])))
