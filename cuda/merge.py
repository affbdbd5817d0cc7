"""Combining the splits of a decode: every split has its own z and lse, in float32.

    lse = log Σ_s exp(lse_s)        z = Σ_s exp(lse_s − lse) z_s

A block serves one row and some groups of 4 columns. Its threads form a grid: `quads` side by side, each with one
group of columns, and `lanes` one below the other. Thread (quad, lane) combines the splits lane, lane + lanes, … of its
columns in one pass, with an online softmax; AT_ONCE splits are read before any of them is used, so that their latencies
overlap. The lanes are then combined in pairs, log₂(lanes) times. The order of all sums is fixed, so results are equal
from run to run.

A kernel of its own, rather than the last block of the decode that finishes: with one sequence, GTA-1B has 5 rows and
one block of rows, so a single multiprocessor would have to read the parts of all splits. At 64 bytes per cycle and 396
splits that takes 8 µs (1 MB). The 80 blocks of this kernel take about 2.5 µs: two rounds of reads from the L2 cache of
0.6 µs, six pairings of 0.04 µs, and 1 µs to begin and to end. It also needs no counter in global memory, which a graph
that is replayed on two streams would have to share.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, int64

from gta_cuda.forward import LN_2, LOG2_E
from gta_cuda.intrinsics import bf16_bits, div, exp2, inverse, log2
from gta_cuda.tiles import make_load4

AT_ONCE = 4
MOST_LANES = 64


def cut(d_v: int, splits: int, threads: int) -> tuple[int, int]:
    """How the threads of a block share the work: (quads, lanes), powers of two whose product is `threads`.

    There are enough lanes that a thread combines AT_ONCE splits, at most MOST_LANES; the more lanes, the fewer columns
    a block has, and the more blocks share a row.
    """
    widest = 1 << (-(-d_v // 4) - 1).bit_length()  # more columns than this would leave threads idle
    lanes = 1 << (-(-splits // AT_ONCE) - 1).bit_length()
    lanes = min(threads, max(lanes, threads // widest), max(MOST_LANES, threads // widest))
    return threads // lanes, lanes


def make_merge(d_v: int, to_bf16: bool, threads: int = 128) -> Callable:
    """Make the kernel for this width. Grid (rows, blocks of 4·quads columns); see :func:`cut`."""
    load4 = make_load4(d_v, d_v % 4 == 0)
    n_shared, n_loaded = 6 * threads, 4 * AT_ONCE
    zero, lowest, to_log2, to_ln = float32(0), float32(-math.inf), float32(LOG2_E), float32(LN_2)

    def merge(z_parts, lse_parts, z, lse, n_rows, splits, quads, lanes):
        shared = cuda.shared.array(n_shared, float32)
        logs = cuda.local.array(AT_ONCE, float32)
        loaded = cuda.local.array(n_loaded, float32)
        row, t = int64(cuda.blockIdx.x), int32(cuda.threadIdx.x)
        lane = div(t, quads)
        quad = int32(t - lane * quads)
        column = int32((cuda.blockIdx.y * quads + quad) * 4)
        top, seen = lowest, zero
        x0 = x1 = x2 = x3 = zero
        first = lane
        while first < splits:
            high = top
            for i in range(AT_ONCE):
                split = int32(first + i * lanes)
                at = int64(min(split, splits - 1)) * n_rows + row
                loaded[4 * i], loaded[4 * i + 1], loaded[4 * i + 2], loaded[4 * i + 3] = load4(
                    z_parts, at * d_v + column, column
                )
                logs[i] = lse_parts[at] if split < splits else lowest
            for i in range(AT_ONCE):
                high = max(high, logs[i])
            base = high if high != lowest else zero
            shrink = exp2((top - base) * to_log2)
            top = high
            seen, x0, x1, x2, x3 = seen * shrink, x0 * shrink, x1 * shrink, x2 * shrink, x3 * shrink
            for i in range(AT_ONCE):
                share = exp2((logs[i] - base) * to_log2)
                seen += share
                x0 = cuda.fma(share, loaded[4 * i], x0)
                x1 = cuda.fma(share, loaded[4 * i + 1], x1)
                x2 = cuda.fma(share, loaded[4 * i + 2], x2)
                x3 = cuda.fma(share, loaded[4 * i + 3], x3)
            first = int32(first + AT_ONCE * lanes)
        half = int32(lanes >> 1)
        while half > 0:
            if half <= lane < 2 * half:
                shared[t], shared[threads + t] = top, seen
                shared[2 * threads + t], shared[3 * threads + t] = x0, x1
                shared[4 * threads + t], shared[5 * threads + t] = x2, x3
            cuda.syncthreads()
            if lane < half:
                other = int32(t + half * quads)
                high = max(top, shared[other])
                base = high if high != lowest else zero
                mine, theirs = exp2((top - base) * to_log2), exp2((shared[other] - base) * to_log2)
                top = high
                seen = seen * mine + shared[threads + other] * theirs
                x0 = x0 * mine + shared[2 * threads + other] * theirs
                x1 = x1 * mine + shared[3 * threads + other] * theirs
                x2 = x2 * mine + shared[4 * threads + other] * theirs
                x3 = x3 * mine + shared[5 * threads + other] * theirs
            half = int32(half >> 1)
        if lane == 0:
            share, value = zero, lowest
            if seen > zero:
                share = inverse(seen)
                value = top + log2(seen) * to_ln
            loaded[0], loaded[1], loaded[2], loaded[3] = x0, x1, x2, x3
            for i in range(4):
                if column + i < d_v:
                    x = loaded[i] * share
                    if to_bf16:
                        z[row * d_v + column + i] = bf16_bits(x)
                    else:
                        z[row * d_v + column + i] = x
            if column == 0:
                lse[row] = value

    return merge
