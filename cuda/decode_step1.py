"""Step 1 of the decode's ladder: one block per map walks over the whole cache.

A decode step has one query per map. The block takes a tile of keys, one per thread; then every thread adds up its own
column of the values, weighted, with the online softmax of ``step3_online``. Two things are wrong with it:

    five maps are five blocks, and a GPU has 132 multiprocessors or so
    every block reads the same keys and values: GTA-1B's five maps read one cache five times

and one that is harder to see: a thread reads *its* key, so neighbours read places that are a whole row apart. A read
brings 32 bytes of each row, of which the next reads use the rest.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder decode_naive
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

THREADS = 128


def make_decode(d_k: int, d_v: int, threads: int = THREADS) -> Callable:
    """Make the kernel for these widths and one query per map. Grid (B·n_q, 1, 1)."""
    each = -(-d_v // threads)  # columns of a thread: t, t + threads, …
    zero, lowest = float32(0), float32(-math.inf)

    def decode_naive_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, causal):
        query = cuda.shared.array(d_k, float32)
        weights = cuda.shared.array(threads, float32)
        result = cuda.local.array(each, float32)
        t = int32(cuda.threadIdx.x)
        batch, b = cuda.gridDim.x // n_q, cuda.blockIdx.x // n_q
        m = cuda.blockIdx.x - b * n_q
        first, stop = bounds[batch + b], bounds[2 * batch + b]
        if causal:
            stop = min(stop, bounds[b] + 1)
        keys = b * strides[3] + m // maps_k * strides[4]
        values = b * strides[6] + m // maps_v * strides[7]
        for d in range(t, d_k, threads):
            query[d] = q[b * strides[0] + m * strides[1] + d] * scale
        for c in range(each):
            result[c] = zero
        largest, total = lowest, zero
        for j0 in range(first, stop, threads):
            cuda.syncthreads()  # the query is there; the weights of the last tile have been read
            here = min(threads, stop - j0)
            score = lowest
            if t < here:
                score = zero
                for d in range(d_k):
                    score += query[d] * k[keys + (j0 + t) * strides[5] + d]
            weights[t] = score
            cuda.syncthreads()
            high = largest
            for j in range(here):
                high = max(high, weights[j])
            cuda.syncthreads()
            weights[t] = math.exp(score - high)
            cuda.syncthreads()
            shrink = math.exp(largest - high)
            largest = high
            total *= shrink
            for c in range(each):
                result[c] *= shrink
            for j in range(here):
                total += weights[j]
                for c in range(each):
                    if t + c * threads < d_v:
                        result[c] += weights[j] * v[values + (j0 + j) * strides[8] + t + c * threads]
        row = int64(cuda.blockIdx.x)
        for c in range(each):
            if t + c * threads < d_v:
                z[row * d_v + t + c * threads] = result[c] / total if total > zero else zero
        if t == 0:
            lse[row] = largest + math.log(total) if total > zero else lowest

    return decode_naive_f32
