"""The parts of the wgmma forward: loading tiles, reading queries, and what happens to the scores between two products.

A tile of keys or values lies in shared memory in blocks of 64 columns, 128 bytes per row. Group c of 8 columns of row r
is in place c xor (r mod 8). This is the 128-byte swizzle of ``wgmma.descriptor`` if a block begins at a multiple of
1024 bytes. Rows that do not exist and columns past the width are zeros.

Suffixes stand for the two rows of an accumulator that a thread holds: the upper one (u) and the one 8 below it (w).
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable

from numba import cuda, float32, int32, uint32

from gta_cuda.intrinsics import SIMULATED, cp_async16_at, exp2, global_address, pack_bf16, pair

if SIMULATED:
    from gta_cuda.emulated_wgmma import renew, shfl_xor
else:
    from gta_cuda.wgmma import renew, shfl_xor

BLOCK, WIDTH = 64, 128  # columns of a block of a tile, and bytes of its rows: the width of the swizzle


def columns_of(width: int) -> int:
    """The width rounded up to whole blocks."""
    return -(-width // BLOCK) * BLOCK


def make_load(rows: int, columns: int, width: int, threads: int) -> Callable:
    """Make the device function that starts copying a tile: rows first… and columns left… of a view (see ``tiles``).

    Its argument `thread` is the thread's number among `threads`, a multiple of 64.
    """
    down = threads // 8  # rows that the threads copy at a time; a multiple of 8, so that r mod 8 stays the same
    whole = width % BLOCK == 0

    @cuda.jit(device=True)
    def load(shared, to, view, first, left, thread):
        array, start, stride, low, high = view
        r, c = int32(thread // 8), int32(thread % 8)
        column = int32(left + c * 8)
        at = start + (first + r) * stride + column
        place = int32(to + r * WIDTH + (c ^ (r & 7)) * 16)
        least, most = int32(low - first - r), int32(high - first - r)
        for m in range(rows // down):
            for n in range(columns // BLOCK):
                exists = least <= m * down < most and (whole or column + n * BLOCK < width)
                to_row = int32(place + (n * rows + m * down) * WIDTH)
                cp_async16_at(shared, to_row, array, global_address(array, at + n * BLOCK), exists)
            at += down * stride

    return load


def make_queries(d_k: int) -> Callable:
    """Make the device function that reads a thread's part of operand A, for every 16 columns, into `query`.

    row: that of the thread's first element; at: the place in q of that row's first column; n_queries: rows of q.
    """
    depth = -(-d_k // 16)

    @cuda.jit(device=True)
    def two(q, at, exists, column):
        if exists and column < d_k:
            return pair(q[at + column], q[at + column + 1])
        return uint32(0)

    @cuda.jit(device=True)
    def queries(query, q, at, stride, row, n_queries, lane):
        below = at + 8 * stride
        for d in range(depth):
            column = int32(d * 16 + lane % 4 * 2)
            query[4 * d] = two(q, at, row < n_queries, column)
            query[4 * d + 1] = two(q, below, row + 8 < n_queries, column)
            query[4 * d + 2] = two(q, at, row < n_queries, column + 8)
            query[4 * d + 3] = two(q, below, row + 8 < n_queries, column + 8)

    return queries


def make_mask(keys: int) -> Callable:
    """Make the device function that hides scores of a tile from the rows.

    most_u, most_w: the last key that a row sees, counted from the thread's first key of the tile.
    """
    lowest = float32(-math.inf)

    @cuda.jit(device=True)
    def mask(scores, most_u, most_w):
        for n in range(keys // 8):
            for i in range(2):
                if n * 8 + i > most_u:
                    scores[n * 4 + i] = lowest
                if n * 8 + i > most_w:
                    scores[n * 4 + 2 + i] = lowest

    return mask


def make_softmax(keys: int) -> Callable:
    """Make the device function that turns a tile's scores into weights, packed in pairs, relative to the maximum.

    It takes and returns the maxima and the thread's sums of the rows, and returns the factors by which earlier weights
    have to shrink.
    """
    n, zero, lowest = keys // 8, float32(0), float32(-math.inf)

    @cuda.jit(device=True)
    def softmax(scores, weights, to_log2, top_u, top_w, sum_u, sum_w):
        high_u, high_w = top_u, top_w
        for j in range(n):
            high_u = max(high_u, max(scores[j * 4], scores[j * 4 + 1]))
            high_w = max(high_w, max(scores[j * 4 + 2], scores[j * 4 + 3]))
        high_u = max(high_u, shfl_xor(high_u, 1))
        high_u = max(high_u, shfl_xor(high_u, 2))
        high_w = max(high_w, shfl_xor(high_w, 1))
        high_w = max(high_w, shfl_xor(high_w, 2))
        base_u = base_w = zero
        if high_u != lowest:
            base_u = high_u * to_log2
        if high_w != lowest:
            base_w = high_w * to_log2
        shrink_u, shrink_w = exp2(top_u * to_log2 - base_u), exp2(top_w * to_log2 - base_w)
        sum_u *= shrink_u
        sum_w *= shrink_w
        for j in range(n):
            for i in range(2):
                scores[j * 4 + i] = exp2(scores[j * 4 + i] * to_log2 - base_u)
                scores[j * 4 + 2 + i] = exp2(scores[j * 4 + 2 + i] * to_log2 - base_w)
                sum_u += scores[j * 4 + i]
                sum_w += scores[j * 4 + 2 + i]
        for j in range(2 * n):
            weights[j] = pack_bf16(scores[2 * j], scores[2 * j + 1])
        return high_u, high_w, sum_u, sum_w, shrink_u, shrink_w

    return softmax


def make_shrink(columns: int) -> Callable:
    """Make the device function that multiplies the rows of the results."""
    one = float32(1)

    @cuda.jit(device=True)
    def shrink(result, shrink_u, shrink_w):
        if shrink_u != one or shrink_w != one:  # after some tiles, a row's maximum seldom changes
            for n in range(columns // 8):
                result[n * 4] *= shrink_u
                result[n * 4 + 1] *= shrink_u
                result[n * 4 + 2] *= shrink_w
                result[n * 4 + 3] *= shrink_w

    return shrink


def make_renew(n: int) -> Callable:
    """Make the device function that sets n operands after the wait for the product that reads them."""

    @cuda.jit(device=True)
    def renew_all(operands, fresh, nothing):
        for i in range(n):
            operands[i] = renew(operands[i], fresh[i], nothing)

    return renew_all
