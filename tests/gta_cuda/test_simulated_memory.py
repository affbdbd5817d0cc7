"""The simulator's shared memory, without the watch that other tests put in its place. `make test-cudasim` runs it."""

import time

import numpy as np
from numba import cuda, float32

from gta_cuda import intrinsics


class Slow:
    """A number of elements that takes a while to read, during which other threads ask for the array too."""

    def __index__(self):
        time.sleep(0.02)
        return 8


def test_threads_that_ask_at_the_same_moment_get_one_array():
    assert intrinsics.SIMULATED
    found = np.zeros(8, np.float32)
    size = Slow()

    @cuda.jit
    def kernel(out):
        shared = cuda.shared.array(size, float32)
        t = cuda.threadIdx.x
        shared[t] = t + 1
        cuda.syncthreads()
        out[t] = shared[7 - t]

    kernel[1, 8](found)
    np.testing.assert_array_equal(found, np.arange(8, 0, -1))
