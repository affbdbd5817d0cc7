"""What the bfloat16 kernels are made of: rows into swizzled shared memory, and the fragments that mma takes from it.

A tile of rows lies in shared memory row after row, in groups of 8 columns (16 bytes). ``ldmatrix`` reads the same
group of 8 rows at once, and 8 rows of 128 bytes all begin in the same memory bank: so group c of row r is stored in
place c xor (r mod 8), and the 8 reads fall into different banks. With fewer than 8 groups to a row the xor is
limited to as many bits as keep it inside the row.

Rows that do not exist, and columns past the width, are zeros and are never read, as in ``tiles``.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, int32

from gta_cuda.intrinsics import cp_async16, ldmatrix4, ldmatrix4_t, mma_bf16

PART = 128  # columns of the result that a block computes at most


def padded(width: int) -> int:
    """The next multiple of 16, the depth of one mma."""
    return -(-width // 16) * 16


def swizzle(columns: int) -> int:
    """The bits of a row's number that are xor-ed into its groups' places."""
    groups = columns // 8
    return min(8, groups & -groups) - 1


def make_load(rows: int, columns: int, width: int, wide: bool, threads: int) -> Callable:
    """Device function: `rows` rows of a view (see ``tiles``), columns [left, left + columns), into shared memory.

    wide: every row starts at a multiple of 16 bytes and its width is a multiple of 8; the copies are asynchronous
    then, else they are made element by element. thread: this thread's number among `threads`.
    """
    groups, bits = columns // 8, swizzle(columns)
    lanes = min(1 << (groups - 1).bit_length(), threads)  # threads side by side; the others go down the rows
    down = threads // lanes

    @cuda.jit(device=True)
    def load(shared, to, view, first, left, thread):
        array, start, stride, low, high = view
        # every thread goes round as often as the others: what is equal for a warp, the compiler wants to see
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
                        # where nothing is read, it is still an address that may be
                        cp_async16(shared, place, array, at if exists else start, exists)
                    else:
                        for i in range(8):
                            shared[place + i] = 0
                            if exists and column + i < width:
                                shared[place + i] = array[at + i]
                at += down * stride

    return load


def make_rows_fragment(columns: int) -> Callable:
    """Device function: A's fragment (16, 16) of rows top… and columns left… of a tile: four registers."""
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 16)
        return ldmatrix4(shared, int32(tile + r * columns + ((left // 8 + lane // 16) ^ (r & bits)) * 8))

    return fragment


def make_columns_fragment(columns: int) -> Callable:
    """Device function: A's fragment (16, 16) of the tile's transpose: rows are its columns left…, top… its rows."""
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 8 + lane // 16 * 8)
        return ldmatrix4_t(shared, int32(tile + r * columns + ((left // 8 + lane // 8 % 2) ^ (r & bits)) * 8))

    return fragment


def make_keys_fragment(columns: int) -> Callable:
    """Device function: two of B's fragments (16, 8) of Xᵀ, rows top…+7 and top+8… of the tile, columns from left on."""
    bits = swizzle(columns)

    @cuda.jit(device=True)
    def fragment(shared, tile, top, left, lane):
        r = int32(top + lane % 8 + lane // 16 * 8)
        return ldmatrix4(shared, int32(tile + r * columns + ((left // 8 + lane // 8 % 2) ^ (r & bits)) * 8))

    return fragment


def make_values_fragment(columns: int) -> Callable:
    """Device function: two of B's fragments (16, 8) of X itself: from row top on, columns left…+7 and left+8 on."""
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
