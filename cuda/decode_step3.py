"""Step 3 of the decode's ladder: the maps that share a cache are the rows of one block.

Change from step 2 (``decode_step2``): a block serves all `rows` maps that share both heads. A thread that has read an
element of its key multiplies it by the query of each map, and one that has read a value adds it to the result of each.
The five maps of GTA-1B read the cache once instead of five times. This is the step that GTA makes possible; five heads
with five caches have nothing to share.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder decode_rows

What remains for step 4 (``decode_step4``): a thread waits for 4 bytes at a time, so a block has few bytes under way.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

THREADS = 128


def make_decode(d_k: int, d_v: int, rows: int, threads: int = THREADS) -> Callable:
    """Make the kernel for these widths and one query of each of `rows` maps. Grid (B·n_q / rows, 1, splits)."""
    each = -(-d_v // threads)  # columns of a thread: t, t + threads, …
    n_queries, n_weights, n_results = rows * d_k, rows * threads, rows * each
    zero, lowest = float32(0), float32(-math.inf)

    def decode_rows_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, causal):
        queries = cuda.shared.array(n_queries, float32)
        weights = cuda.shared.array(n_weights, float32)
        scores = cuda.local.array(rows, float32)
        result = cuda.local.array(n_results, float32)
        largest = cuda.local.array(rows, float32)
        total = cuda.local.array(rows, float32)
        t = int32(cuda.threadIdx.x)
        runs = n_q // rows
        batch, b = cuda.gridDim.x // runs, cuda.blockIdx.x // runs
        m = (cuda.blockIdx.x - b * runs) * rows  # the first map of the block
        first, stop = bounds[batch + b], bounds[2 * batch + b]
        if causal:
            stop = min(stop, bounds[b] + 1)
        split = (max(0, stop - first) + cuda.gridDim.z - 1) // cuda.gridDim.z
        first += cuda.blockIdx.z * split
        stop = min(stop, first + split)
        keys = b * strides[3] + m // maps_k * strides[4]
        values = b * strides[6] + m // maps_v * strides[7]
        for e in range(t, n_queries, threads):
            queries[e] = q[b * strides[0] + (m + e // d_k) * strides[1] + e % d_k] * scale
        for r in range(rows):
            largest[r], total[r] = lowest, zero
        for o in range(n_results):
            result[o] = zero
        for j0 in range(first, stop, threads):
            cuda.syncthreads()  # the queries are there; the weights of the last tile have been read
            here = min(threads, stop - j0)
            for r in range(rows):
                scores[r] = zero if t < here else lowest
            if t < here:
                for d in range(d_k):
                    x = k[keys + (j0 + t) * strides[5] + d]
                    for r in range(rows):
                        scores[r] += queries[r * d_k + d] * x
            for r in range(rows):
                weights[r * threads + t] = scores[r]
            cuda.syncthreads()
            for r in range(rows):
                high = largest[r]
                for j in range(here):
                    high = max(high, weights[r * threads + j])
                shrink = math.exp(largest[r] - high)
                largest[r] = high
                total[r] *= shrink
                for c in range(each):
                    result[r * each + c] *= shrink
            cuda.syncthreads()
            for r in range(rows):
                weights[r * threads + t] = math.exp(scores[r] - largest[r])
            cuda.syncthreads()
            for j in range(here):
                for c in range(each):
                    x = zero
                    if t + c * threads < d_v:
                        x = v[values + (j0 + j) * strides[8] + t + c * threads]
                    for r in range(rows):
                        result[r * each + c] += weights[r * threads + j] * x
                for r in range(rows):
                    total[r] += weights[r * threads + j]
        n_rows = int64(cuda.gridDim.x) * rows
        for r in range(rows):
            row = cuda.blockIdx.z * n_rows + b * n_q + m + r
            for c in range(each):
                if t + c * threads < d_v:
                    z[row * d_v + t + c * threads] = result[r * each + c] / total[r] if total[r] > zero else zero
            if t == 0:
                lse[row] = largest[r] + math.log(total[r]) if total[r] > zero else lowest

    return decode_rows_f32
