"""Step 3 of the ladder: one pass, with the online softmax.

Change from step 2 (``step2_tiles``): maximum, sum and result are updated together. When a tile contains a new maximum,
the sum and result so far are multiplied by exp(old − new). Every score is then computed once instead of three times,
and every key is read once. The result stays in the thread until the end. It has d_v elements, and a thread has 255
registers, so most of the result and of the query is kept in local memory; ``gta-ref doctor --kernels`` shows the stack.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder online

What remains for step 4 (``forward``): every multiply–add still reads two operands from memory.
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
    floats_k, floats_v = keys * d_k, keys * d_v
    check_shared(d_k, d_v, 4 * (floats_k + floats_v))

    @cuda.jit(device=True)
    def load(tile, array, start, stride, width, first, stop):
        for e in range(cuda.threadIdx.x, keys * width, threads):
            j, d = e // width, e % width
            if first + j < stop:
                tile[e] = array[start + (first + j) * stride + d]

    def online_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, n_queries, causal):
        tile_k = cuda.shared.array(floats_k, float32)
        tile_v = cuda.shared.array(floats_v, float32)
        scores = cuda.local.array(keys, float32)
        query = cuda.local.array(d_k, float32)
        result = cuda.local.array(d_v, float32)
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
        for d in range(d_k):
            query[d] = float32(0)
            if live:
                query[d] = q[b * strides[0] + m * strides[1] + i * strides[2] + d] * scale
        for d in range(d_v):
            result[d] = float32(0)

        largest, total = float32(-math.inf), float32(0)
        for j0 in range(first, stop, keys):
            cuda.syncthreads()  # wait until all threads have read the last tile
            load(tile_k, k, at_k, strides[5], d_k, j0, stop)
            load(tile_v, v, at_v, strides[8], d_v, j0, stop)
            cuda.syncthreads()
            n = min(keys, last + 1 - j0)
            if n > 0:
                high = largest
                for j in range(n):
                    s = float32(0)
                    for d in range(d_k):
                        s += query[d] * tile_k[j * d_k + d]
                    scores[j] = s
                    high = max(high, s)
                shrink = math.exp(largest - high)
                largest = high
                total *= shrink
                for d in range(d_v):
                    result[d] *= shrink
                for j in range(n):
                    weight = math.exp(scores[j] - high)
                    total += weight
                    for d in range(d_v):
                        result[d] += weight * tile_v[j * d_v + d]
        if live:
            lse[row] = float32(-math.inf)
            if first <= last:
                lse[row] = largest + math.log(total)
            for d in range(d_v):
                x = float32(0)
                if first <= last:
                    x = result[d] / total
                z[row * d_v + d] = x

    return online_f32
