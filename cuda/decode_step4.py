"""Step 4 of the decode's ladder: 16 bytes per read, all reads of a tile at once, and a merge in parallel.

Change from step 3 (``decode_step3``): d_k / 4 neighbouring threads share a key, and d_v / 4 share a value; each reads 4
columns with one instruction, so a warp reads whole rows of the cache, one after the other. The partial sums of a score
are added by shuffles. At the end the threads that hold the same columns, for different keys, add up their results. The
splits are combined by the engine's ``merge``, whose threads share the splits of a row.

A read takes about 0.6 µs to arrive, whether it brings 4 bytes per thread or 16. What counts is how many bytes are
under way. Here all keys of a tile are requested before one of them is used, 8 KB of a block at these widths, and then
all values, 16 KB. Step 3 has about 2 KB under way: 4 bytes of 128 threads, 4 times.

    NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.ladder decode_wide

What remains for step 5 (``decode``): the values are requested after the scores have been computed, and the keys of the
next tile after the values have been used. There, warps work on their own, and something is always under way.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

from gta_cuda.intrinsics import ALIGNMENT, ld4, shfl_xor, st4

THREADS, KEYS = 128, 32


def make_decode(d_k: int, d_v: int, rows: int, threads: int = THREADS, keys: int = KEYS) -> Callable:
    """Make the kernel for these widths, 4 to 128 and powers of two. Grid (B·n_q / rows, 1, splits).

    Rows of q, k and v begin at multiples of 16 bytes. keys: per step, a multiple of `threads` · 4 over each width.
    """
    if any(width not in (4, 8, 16, 32, 64, 128) for width in (d_k, d_v)):
        raise ValueError(f"d_k={d_k}, d_v={d_v} must be powers of two from 4 to 128")
    lanes_k, lanes_v = d_k // 4, d_v // 4  # threads per key, and per value
    at_once_k, at_once_v = threads // lanes_k, threads // lanes_v
    reads_k, reads_v = keys // at_once_k, keys // at_once_v  # of a thread per step
    n_queries, n_weights, n_results, n_sums = rows * d_k, rows * keys, rows * 4, 4 * threads
    n_k, n_v = 4 * reads_k, 4 * reads_v
    zero, lowest = float32(0), float32(-math.inf)

    @cuda.jit(device=True)
    def request(held, array, at, stride, left, n, at_once):
        for i in range(n):
            x0 = x1 = x2 = x3 = zero
            if i * at_once < left:
                x0, x1, x2, x3 = ld4(array, at + i * at_once * stride)
            held[4 * i], held[4 * i + 1], held[4 * i + 2], held[4 * i + 3] = x0, x1, x2, x3

    def decode_wide_f32(q, k, v, z, lse, bounds, strides, scale, n_q, maps_k, maps_v, causal):
        queries = cuda.shared.array(n_queries, float32, alignment=ALIGNMENT)
        weights = cuda.shared.array(n_weights, float32)
        sums = cuda.shared.array(n_sums, float32, alignment=ALIGNMENT)
        of_k = cuda.local.array(n_k, float32)
        of_v = cuda.local.array(n_v, float32)
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
        column_k, column_v = int32(t % lanes_k * 4), int32(t % lanes_v * 4)
        key, value = int32(t // lanes_k), int32(t // lanes_v)  # the thread's first ones of a tile
        at_k = b * strides[3] + m // maps_k * strides[4] + column_k
        at_v = b * strides[6] + m // maps_v * strides[7] + column_v
        for e in range(t, n_queries, threads):
            queries[e] = q[b * strides[0] + (m + e // d_k) * strides[1] + e % d_k] * scale
        for r in range(rows):
            largest[r], total[r] = lowest, zero
        for o in range(n_results):
            result[o] = zero
        for j0 in range(first, stop, keys):
            cuda.syncthreads()  # the queries are there; the weights of the last tile have been read
            request(of_k, k, at_k + (j0 + key) * strides[5], strides[5], stop - j0 - key, reads_k, at_once_k)
            for n in range(reads_k):
                j = int32(n * at_once_k + key)
                for r in range(rows):
                    q0, q1, q2, q3 = ld4(queries, r * d_k + column_k)
                    s = of_k[4 * n] * q0 + of_k[4 * n + 1] * q1 + of_k[4 * n + 2] * q2 + of_k[4 * n + 3] * q3
                    step = lanes_k // 2
                    while step > 0:
                        s += shfl_xor(s, step)
                        step //= 2
                    if column_k == 0:
                        weights[r * keys + j] = s if j0 + j < stop else lowest
            cuda.syncthreads()
            for r in range(rows):
                high = largest[r]
                for j in range(keys):
                    high = max(high, weights[r * keys + j])
                shrink = math.exp(largest[r] - high)
                largest[r] = high
                total[r] *= shrink
                for i in range(4):
                    result[r * 4 + i] *= shrink
            request(of_v, v, at_v + (j0 + value) * strides[8], strides[8], stop - j0 - value, reads_v, at_once_v)
            for n in range(reads_v):
                j = int32(n * at_once_v + value)
                for r in range(rows):
                    w = math.exp(weights[r * keys + j] - largest[r])
                    total[r] += w  # of this thread's keys
                    for i in range(4):
                        result[r * 4 + i] += w * of_v[4 * n + i]
        n_rows = int64(cuda.gridDim.x) * rows
        for r in range(rows):
            cuda.syncthreads()
            st4(sums, 4 * t, result[r * 4], result[r * 4 + 1], result[r * 4 + 2], result[r * 4 + 3])
            cuda.syncthreads()
            x0 = x1 = x2 = x3 = seen = zero
            for n in range(at_once_v):
                y0, y1, y2, y3 = ld4(sums, n * d_v + column_v)
                x0, x1, x2, x3 = x0 + y0, x1 + y1, x2 + y2, x3 + y3
            cuda.syncthreads()
            if column_v == 0:
                sums[value] = total[r]
            cuda.syncthreads()
            for n in range(at_once_v):
                seen += sums[n]
            row = cuda.blockIdx.z * n_rows + b * n_q + m + r
            share = float32(1) / seen if seen > zero else zero
            if t < lanes_v:
                st4(z, row * d_v + column_v, x0 * share, x1 * share, x2 * share, x3 * share)
            if t == 0:
                lse[row] = largest[r] + math.log(seen) if seen > zero else lowest

    return decode_wide_f32
