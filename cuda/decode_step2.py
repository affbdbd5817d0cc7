"""Step 2 of the decode's ladder: the keys are cut into splits, one per block, and the splits are merged.

Change from step 1 (``decode_step1``): the third axis of the grid counts splits. A split is a decode over some of the
keys; it has a result and an lse of its own, and two such results combine exactly:

    lse = log Σ_s exp(lse_s)        z = Σ_s exp(lse_s − lse) z_s

The kernel below does that with one thread per column, which walks over the splits twice: for the largest lse, and for
the sums. All multiprocessors now have work, but each map still reads the cache for itself, and the merge takes longer
the more splits there are.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder decode_split
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

THREADS = 128


def make_decode(d_k: int, d_v: int, threads: int = THREADS) -> Callable:
    """Make the kernel for these widths and one query per map. Grid (B·n_q, 1, splits)."""
    each = -(-d_v // threads)  # columns of a thread: t, t + threads, …
    zero, lowest = float32(0), float32(-math.inf)

    def decode_split_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, causal):
        query = cuda.shared.array(d_k, float32)
        weights = cuda.shared.array(threads, float32)
        result = cuda.local.array(each, float32)
        t = int32(cuda.threadIdx.x)
        batch, b = cuda.gridDim.x // n_q, cuda.blockIdx.x // n_q
        m = cuda.blockIdx.x - b * n_q
        first, stop = bounds[batch + b], bounds[2 * batch + b]
        if causal:
            stop = min(stop, bounds[b] + 1)
        split = (max(0, stop - first) + cuda.gridDim.z - 1) // cuda.gridDim.z
        first += cuda.blockIdx.z * split
        stop = min(stop, first + split)
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
        row = int64(cuda.blockIdx.z) * cuda.gridDim.x + cuda.blockIdx.x  # the rows of split 0, then those of split 1, …
        for c in range(each):
            if t + c * threads < d_v:
                z[row * d_v + t + c * threads] = result[c] / total if total > zero else zero
        if t == 0:
            lse[row] = largest + math.log(total) if total > zero else lowest

    return decode_split_f32


def make_merge(d_v: int, threads: int = THREADS) -> Callable:
    """Make the kernel that combines the splits. Grid (rows, 1, 1)."""
    zero, lowest = float32(0), float32(-math.inf)

    def merge_in_order_f32(z_parts, lse_parts, z, lse, n_rows, splits):
        row = int64(cuda.blockIdx.x)
        largest = lowest
        for s in range(splits):
            largest = max(largest, lse_parts[s * n_rows + row])
        base = largest if largest != lowest else zero  # no split has seen a key: −∞ − (−∞) is not a number
        for column in range(cuda.threadIdx.x, d_v, threads):
            total = x = zero
            for s in range(splits):
                share = math.exp(lse_parts[s * n_rows + row] - base)
                total += share
                x += share * z_parts[(s * n_rows + row) * d_v + column]
            z[row * d_v + column] = x / total if total > zero else zero
            if column == 0:
                lse[row] = base + math.log(total) if total > zero else lowest

    return merge_in_order_f32
