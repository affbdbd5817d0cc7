"""Step 2 of the ladder: tiles in shared memory.

Change from step 1 (``step1_naive``): the block copies 32 keys or values at a time to shared memory, where all its
queries read them. Neighbouring threads copy neighbouring columns, so the copies are whole cache lines. A pass reads
global memory once per block instead of once per query. There are still three passes over the keys, and every
multiply–add reads two operands from shared memory.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder tiles
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

from gta_cuda.kernels import check_shared

THREADS, KEYS = 128, 32


def make_forward(d_k: int, d_v: int, threads: int = THREADS, keys: int = KEYS) -> Callable:
    """Make the kernel for these widths; its arguments are those of ``forward``. Grid (B·n_q, blocks of queries, 1)."""
    widest = max(d_k, d_v)
    total_floats = keys * widest
    check_shared(d_k, d_v, 4 * total_floats)

    @cuda.jit(device=True)
    def load(tile, array, start, stride, width, first, stop):
        cuda.syncthreads()  # wait until all threads have read the last tile
        for e in range(cuda.threadIdx.x, keys * width, threads):
            j, d = e // width, e % width
            if first + j < stop:
                tile[j * widest + d] = array[start + (first + j) * stride + d]
        cuda.syncthreads()

    @cuda.jit(device=True)
    def score(query, tile, j):
        s = float32(0)
        for d in range(d_k):
            s += query[d] * tile[j * widest + d]
        return s

    def tiles_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        tile = cuda.shared.array(total_floats, float32)
        weights = cuda.local.array(keys, float32)
        query = cuda.local.array(d_k, float32)
        batch, b = cuda.gridDim.x // n_q, cuda.blockIdx.x // n_q
        m = cuda.blockIdx.x - b * n_q
        i = int32(cuda.blockIdx.y * threads + cuda.threadIdx.x)
        first, stop = bounds[batch + b], bounds[2 * batch + b]
        live = i < n_queries  # the other threads only help to copy
        last = stop - 1 if live else -1  # last key that this thread's query sees; stop is for the whole block
        if causal:
            last = min(last, bounds[b] + i)
            stop = min(stop, bounds[b] + min(n_queries, (cuda.blockIdx.y + 1) * threads))
        at_k = b * strides[3] + m // maps_k * strides[4]
        at_v = b * strides[6] + m // maps_v * strides[7]
        row = int64(cuda.blockIdx.x) * n_queries + i
        if live:
            for d in range(d_k):
                query[d] = q[b * strides[0] + m * strides[1] + i * strides[2] + d] * scale
            for d in range(d_v):
                z[row * d_v + d] = float32(0)

        largest = float32(-math.inf)
        for j0 in range(first, stop, keys):
            load(tile, k, at_k, strides[5], d_k, j0, stop)
            for j in range(min(keys, last + 1 - j0)):
                largest = max(largest, score(query, tile, j))
        total = float32(0)
        for j0 in range(first, stop, keys):
            load(tile, k, at_k, strides[5], d_k, j0, stop)
            for j in range(min(keys, last + 1 - j0)):
                total += math.exp(score(query, tile, j) - largest)
        for j0 in range(first, stop, keys):
            load(tile, k, at_k, strides[5], d_k, j0, stop)
            for j in range(min(keys, last + 1 - j0)):
                weights[j] = math.exp(score(query, tile, j) - largest) / total
            load(tile, v, at_v, strides[8], d_v, j0, stop)
            for j in range(min(keys, last + 1 - j0)):
                for d in range(d_v):
                    z[row * d_v + d] += weights[j] * tile[j * widest + d]
        if live:
            lse[row] = float32(-math.inf)
            if first <= last:
                lse[row] = largest + math.log(total)

    return tiles_f32
