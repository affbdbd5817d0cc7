"""Numba's own simulator, with what the kernels need of numba-cuda's: where that is missing, they are simulated with it.

numba-cuda began as a copy of Numba's own ``numba.cuda``, and has added two things to the simulator since. A shared
array can ask for an alignment. And several threads can be in device functions of one module at once: the simulator puts
a simulated ``cuda`` into the module when such a function is called, and Numba's own takes it out again when the first
thread returns, although others still use it.
"""

# like the simulator's own methods, these accept arguments of many types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi
from numba.np.numpy_support import as_dtype

LOCK = threading.Lock()
SWAPPED: list[tuple[dict[str, Any], str]] = []  # where the simulated ``cuda`` has been put


def extend() -> None:
    """Add both to the simulator of this process."""
    dynamic = kernelapi.FakeCUDAShared.array

    def array(memory, shape, dtype, alignment=None):
        if shape == 0:
            return dynamic(memory, shape, dtype)
        caller = sys._getframe(1)
        place = caller.f_code, caller.f_lasti  # one array for all threads that are here
        with LOCK:
            if place not in memory._allocations:
                memory._allocations[place] = np.empty(shape, as_dtype(dtype))
            return memory._allocations[place]

    kernelapi.FakeCUDAShared.array = array
    kernel.swapped_cuda_module = swapped


@contextmanager
def swapped(function, simulated):
    """Put the simulated ``cuda`` into a function's module, until the end of the launch."""
    names = function.__globals__
    if simulated is not None:  # None after a launch that failed, in threads that have not noticed yet
        for name in [name for name, value in names.items() if value is cuda]:
            names[name] = simulated
            SWAPPED.append((names, name))
    try:
        yield
    finally:
        if not isinstance(threading.current_thread(), kernel.BlockThread):
            while SWAPPED:
                names, name = SWAPPED.pop()
                names[name] = cuda
