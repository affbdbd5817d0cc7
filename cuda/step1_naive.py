"""Step 1 of the ladder: the definition, with one thread per query.

A thread reads all its keys from global memory three times: for the maximum, for the sum and for the result. It
recomputes every score in each pass and keeps z in global memory. Neighbouring threads compute neighbouring queries, so
they read the same key at the same time; this is the only memory access that the kernel does well.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder naive
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

THREADS = 128


def make_forward(d_k: int, d_v: int, threads: int = THREADS) -> Callable:
    """Make the kernel for these widths; its arguments are those of ``forward``. Grid (B·n_q, blocks of queries, 1)."""

    def naive_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        batch, b = cuda.gridDim.x // n_q, cuda.blockIdx.x // n_q
        m = cuda.blockIdx.x - b * n_q
        i = int32(cuda.blockIdx.y * threads + cuda.threadIdx.x)
        if i >= n_queries:
            return
        first, stop = bounds[batch + b], bounds[2 * batch + b]
        if causal:
            stop = min(stop, bounds[b] + i + 1)
        query = b * strides[0] + m * strides[1] + i * strides[2]
        keys = b * strides[3] + m // maps_k * strides[4]
        values = b * strides[6] + m // maps_v * strides[7]
        row = int64(cuda.blockIdx.x) * n_queries + i

        largest = float32(-math.inf)
        for j in range(first, stop):
            s = float32(0)
            for d in range(d_k):
                s += q[query + d] * k[keys + j * strides[5] + d]
            largest = max(largest, s * scale)
        total = float32(0)
        for j in range(first, stop):
            s = float32(0)
            for d in range(d_k):
                s += q[query + d] * k[keys + j * strides[5] + d]
            total += math.exp(s * scale - largest)
        for d in range(d_v):
            z[row * d_v + d] = float32(0)
        for j in range(first, stop):
            s = float32(0)
            for d in range(d_k):
                s += q[query + d] * k[keys + j * strides[5] + d]
            weight = math.exp(s * scale - largest) / total
            for d in range(d_v):
                z[row * d_v + d] += weight * v[values + j * strides[8] + d]
        lse[row] = float32(-math.inf)
        if first < stop:
            lse[row] = largest + math.log(total)

    return naive_f32
