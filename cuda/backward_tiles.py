"""Parts of the bfloat16 backward: copies of tiles to shared memory, and storing results.

``tiles_bf16`` describes the swizzled tiles. Here, places are addresses in bytes. A thread computes its own place in a
tile once. All its other places differ from it by constants, or by one xor with a constant, because the swizzle permutes
the groups of 16 bytes within 128 bytes. A tile therefore has to begin at a multiple of 128 bytes.
"""

# Numba infers the types of these functions when it compiles the kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, float32, int32, int64

from gta_cuda.intrinsics import (
    SIMULATED,
    cp_async16_at,
    global_address,
    shared_address,
    shfl_xor,
    st4,
    thread_again,
)
from gta_cuda.tiles_bf16 import make_load, swizzle

ALIGNMENT = None if SIMULATED else 128  # of the shared array, in bytes


def make_copy(rows: int, columns: int, width: int, wide: bool, threads: int) -> Callable:
    """Make the device function that copies `rows` rows of an array to a tile.

    copy(shared, to, array, start, stride, left): the tile has address `to`, its first row begins at element `start`,
    the next one `stride` elements later, and `left` rows exist. What does not exist becomes 0.
    wide: as in ``tiles_bf16.make_load``; the copy is then asynchronous.
    """
    if not wide:
        load = make_load(rows, columns, width, wide, threads)

        @cuda.jit(device=True)
        def copy_narrow(shared, to, array, start, stride, left):
            place = int32(int32(to - shared_address(shared)) // 2)
            load(shared, place, (array, start, stride, 0, left), 0, 0, int32(cuda.threadIdx.x))

        return copy_narrow
    groups, bits, pitch = columns // 8, swizzle(columns), 2 * columns
    lanes = min(8, 1 << (groups - 1).bit_length())  # threads on one row; each takes every lanes-th group of it
    down = threads // lanes
    times, rounds = -(-groups // lanes), -(-rows // down)
    whole, full = groups % lanes == 0 and rows % down == 0, columns == width

    @cuda.jit(device=True)
    def copy(shared, to, array, start, stride, left):
        thread = thread_again()  # what depends on it takes no registers between two copies
        row, c = int32(thread // lanes), int32(thread % lanes)
        place = int32(to + row * pitch + (c ^ (row & bits)) * 16)
        source = global_address(array, start + int64(row) * stride + c * 8)
        below = int32(left - row)
        for m in range(rounds):
            for n in range(times):
                if whole or (c + n * lanes < groups and row + m * down < rows):
                    exists = m * down < below and (full or (c + n * lanes) * 8 < width)
                    at = int32(int32(place ^ ((m * down & bits) * 16)) + (m * down * pitch + n * lanes * 16))
                    cp_async16_at(shared, at, array, source + n * lanes * 16, exists)
            source += 2 * down * stride

    return copy


def make_store(columns: int) -> Callable:
    """Make the device function that stores a warp's result (16, columns), times a factor, in rows of as many columns.

    store(out, result, o, start, row, n_rows, low, high, factor, lane): the result begins at result[o], and row 0 of
    `out` at element `start`. The result's rows are row…, of which those from n_rows on do not exist, and those outside
    low…high − 1 become 0.
    """
    zero = float32(0)

    @cuda.jit(device=True)
    def store(out, result, o, start, row, n_rows, low, high, factor, lane):
        odd = lane % 2 == 1
        row += int32(lane // 4 + (8 if odd else 0))
        in_use = low <= row < high
        for n in range(columns // 8):
            # two neighbouring threads exchange halves: one then has 4 columns of the upper row, the other of the lower
            x0, x1, x2, x3 = result[o], result[o + 1], result[o + 2], result[o + 3]
            y0, y1 = shfl_xor(x0 if odd else x2, 1), shfl_xor(x1 if odd else x3, 1)
            if odd:
                x0, x1 = y0, y1
            else:
                x2, x3 = y0, y1
            if not in_use:  # these sums may be NaN
                x0 = x1 = x2 = x3 = zero
            if row < n_rows:
                at = start + int64(row) * columns + n * 8 + lane % 4 // 2 * 4
                st4(out, at, x0 * factor, x1 * factor, x2 * factor, x3 * factor)
            o += 4

    return store
