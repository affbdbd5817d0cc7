"""What the kernels need of the simulator, Numba's own or numba-cuda's, and what it does not do by itself.

In both, threads that ask for a shared array at the same moment may get one each: the simulator looks whether the array
is there, and then makes it, without a lock around both. A thread that works on an array of its own reads memory there
that no thread has written.

numba-cuda began as a copy of Numba's own ``numba.cuda``, and has added two things to the simulator since, which are
added here where it is not installed. A shared array can ask for an alignment. And several threads can be in device
functions of one module at once: the simulator puts a simulated ``cuda`` into the module when such a function is called,
and Numba's own takes it out again when the first thread returns, although others still use it.
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

from gta_cuda.needs import missing

LOCK = threading.Lock()
SWAPPED: list[tuple[dict[str, Any], str]] = []  # where the simulated ``cuda`` has been put


def extend() -> None:
    """Add to the simulator of this process what it lacks."""
    dynamic = kernelapi.FakeCUDAShared.array

    def array(memory, shape, dtype, alignment=None):
        if shape == 0:
            return dynamic(memory, shape, dtype)
        if isinstance(dtype, kernelapi.types.Type):
            dtype = kernelapi.numpy_support.as_dtype(dtype)
        caller = sys._getframe(1)
        place = caller.f_code, caller.f_lasti  # one array for all threads that are here
        with LOCK:
            if place not in memory._allocations:
                memory._allocations[place] = np.empty(shape, dtype)
            return memory._allocations[place]

    kernelapi.FakeCUDAShared.array = array
    if missing("numba_cuda"):
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
