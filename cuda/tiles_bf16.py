"""The building blocks of the bfloat16 kernels: loading rows into swizzled shared memory, and fragments for mma.

A tile is stored in shared memory row after row, in groups of 8 columns (16 bytes). ``ldmatrix`` reads the same group
from 8 rows at once, and 8 rows of 128 bytes all begin in the same memory bank. Therefore group c of row r is stored in
place c xor (r mod 8), which spreads the 8 reads over different banks. If a row has fewer than 8 groups, the xor uses
only as many bits as keep the place within the row.

Rows that do not exist and columns past the width are never read; shared memory holds zeros for them, as in ``tiles``.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, int32

from gta_cuda.intrinsics import cp_async16, ldmatrix4, ldmatrix4_t, mma_bf16

PART = 128  # most columns of the result that a block computes


def padded(width: int) -> int:
    """The width rounded up to a multiple of 16, the depth of one mma."""
    return -(-width // 16) * 16


def swizzle(columns: int) -> int:
    """Mask of the bits of a row's number that are xor-ed into the places of its groups."""
    groups = columns // 8
    return min(8, groups & -groups) - 1


def make_load(rows: int, columns: int, width: int, wide: bool, threads: int) -> Callable:
    """Make the device function that loads rows of a view (see ``tiles``), columns [left, …), into shared memory.

    It loads `rows` rows and `columns` columns. Its argument `thread` is the thread's number among `threads`.
    wide: every row starts at a multiple of 16 bytes, and its width is a multiple of 8. The copies are then
    asynchronous; otherwise they are made element by element.
    """
    groups, bits = columns // 8, swizzle(columns)
    lanes = min(1 << (groups - 1).bit_length(), threads)  # threads on one row; the others take further rows
    down = threads // lanes

    @cuda.jit(device=True)
    def load(shared, to, view, first, left, thread):
        array, start, stride, low, high = view
        # all threads make equally many iterations, so that the compiler can see that a warp does not diverge
        for n in range(-(-groups // lanes)):
            c = int32(thread % lanes + n * lanes)
            column = int32(left + c * 8)
            at = start + (first + thread // lanes) * stride + column
            for m in range(-(-rows // down)):
                r = int32(thread // lanes + m * down)
                if c < groups and r < rows:
                    row = int32(first + r)
                    exists = low <= row < high and column < width
                    place = int32(to + r * columns + (c ^ (r & bits)) * 8)
                    if wide:
                        # the address has to be valid even if nothing is read
                        cp_async16(shared, place, array, at if exists else start, exists)
                    else:
                        for i in range(8):
                            shared[place + i] = 0
                            if exists and column + i < width:
                                shared[place + i] = array[at + i]
                at += down * stride

    return load


def make_rows_fragment(columns: int) -> Callable:
    """Make the device function for A's fragment (16, 16): rows top… and columns left… of a tile, in four registers."""
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 16)
        return ldmatrix4(shared, int32(tile + r * columns + ((left // 8 + lane // 16) ^ (r & bits)) * 8))

    return fragment


def make_columns_fragment(columns: int) -> Callable:
    """Make the device function for A's fragment (16, 16) of Xᵀ: rows top… and columns left… of tile X."""
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 8 + lane // 16 * 8)
        return ldmatrix4_t(shared, int32(tile + r * columns + ((left // 8 + lane // 8 % 2) ^ (r & bits)) * 8))

    return fragment


def make_keys_fragment(columns: int) -> Callable:
    """Make the device function for two of B's fragments (16, 8) of Xᵀ.

    They are rows top… and top+8…, columns left… of tile X.
    """
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 8 + lane // 16 * 8)
        return ldmatrix4(shared, int32(tile + r * columns + ((left // 8 + lane // 8 % 2) ^ (r & bits)) * 8))

    return fragment


def make_values_fragment(columns: int) -> Callable:
    """Make the device function for two of B's fragments (16, 8) of X.

    They are rows top…, columns left… and left+8… of tile X.
    """
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 16)
        return ldmatrix4_t(shared, int32(tile + r * columns + ((left // 8 + lane // 16) ^ (r & bits)) * 8))

    return fragment


@cuda.jit(device=True)
def multiply(c, at, a0, a1, a2, a3, b0, b1):
    """c[at : at + 4] += A B."""
    c[at], c[at + 1], c[at + 2], c[at + 3] = mma_bf16(c[at], c[at + 1], c[at + 2], c[at + 3], a0, a1, a2, a3, b0, b1)
