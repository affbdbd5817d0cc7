"""The building blocks of the bfloat16 kernels: loading rows into swizzled shared memory, and fragments for mma.

A tile is stored in shared memory row after row, in groups of 8 columns (16 bytes). ``ldmatrix`` reads the same group
from 8 rows at once, and 8 rows of 128 bytes all begin in the same memory bank. Therefore group c of row r is stored in
place c xor (r mod 8), which spreads the 8 reads over different banks. If a row has fewer than 8 groups, the xor uses
only as many bits as keep the place within the row.

Rows that do not exist and columns past the width are never read; shared memory holds zeros for them, as in ``tiles``.

``make_load`` and ``make_rows_fragment`` compute the place of every access from an index; kernels use them where they
load something once. ``make_copy`` and ``make_reader``, for the loops, compute one address per thread and tile, in
bytes; all other addresses differ from it by constants or by one xor with a constant. They need fewer instructions and
registers.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, int32, uint16

from gta_cuda.intrinsics import (
    cp_async16,
    cp_async16_at,
    global_address,
    ldmatrix4,
    ldmatrix4_at,
    ldmatrix4_t_at,
    mma_bf16,
    pack_bf16,
    shared_address,
    st_pair,
)

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


@cuda.jit(device=True)
def multiply(c, at, a0, a1, a2, a3, b0, b1):
    """c[at : at + 4] += A B."""
    c[at], c[at + 1], c[at + 2], c[at + 3] = mma_bf16(c[at], c[at + 1], c[at + 2], c[at + 3], a0, a1, a2, a3, b0, b1)


def make_copy(rows: int, columns: int, width: int, wide: bool, threads: int) -> tuple[Callable, Callable]:
    """Make two device functions: what a thread copies, and the copy of `rows` rows to shared memory.

    place(thread) → its first row, its first column, and its first place in the tile in bytes.
    copy(shared, to, array, source, stride, below, right, row, column): `to` and `source` are the thread's first
    addresses in shared and in global memory, and `stride` is the distance between rows in bytes. `below` rows exist
    from the thread's first one on, and `right` columns from the tile's first one on.

    wide: as in ``make_load``. The tile begins at a multiple of 128 bytes.
    """
    groups, bits, pitch = columns // 8, swizzle(columns), 2 * columns
    lanes = min(8, 1 << (groups - 1).bit_length())  # threads on one row; each takes every lanes-th group of it
    down = threads // lanes
    whole = groups % lanes == 0 and rows % down == 0  # all threads always copy
    full = width % columns == 0  # all columns of each tile exist

    @cuda.jit(device=True)
    def place(thread):
        row, c = int32(thread // lanes), int32(thread % lanes)
        return row, int32(c * 8), int32(int32(row * pitch) + int32((c ^ (row & bits)) * 16))

    @cuda.jit(device=True)
    def one_by_one(shared, to, array, source, n):
        i = int32(int32(to - shared_address(shared)) // 2)
        j = (source - global_address(array, 0)) // 2
        for e in range(8):
            shared[i + e] = 0
            if e < n:
                shared[i + e] = array[j + e]

    @cuda.jit(device=True)
    def copy(shared, to, array, source, stride, below, right, row, column):
        for m in range(-(-rows // down)):
            for n in range(-(-groups // lanes)):
                if whole or (column + n * lanes * 8 < columns and row + m * down < rows):
                    at = int32(int32(to ^ ((m * down & bits) * 16)) + (m * down * pitch + n * lanes * 16))
                    exists = int32(m * down) < below
                    if not full:
                        exists = exists and column + n * lanes * 8 < right
                    if wide:
                        cp_async16_at(shared, at, array, source + n * lanes * 16, exists)
                    else:
                        after = right - column - n * lanes * 8
                        one_by_one(shared, at, array, source + n * lanes * 16, after if exists else 0)
            source += down * stride

    return place, copy


def make_reader(columns: int, across: bool, transposed: bool) -> tuple[Callable, Callable]:
    """Make two device functions: a thread's place in a tile in bytes, and a fragment of the tile.

    place(lane) → its place. fragment(shared, at, top, left): `at` is the address of the tile plus the thread's place;
    `top` and `left`, multiples of 16, are the first row and column.

        across  transposed   the fragment, of tile X
        False   False        A (16, 16) of X: rows top…, columns left…
        True    False        two of B (16, 8) of Xᵀ: rows top… and top+8…, columns left…
        False   True         two of B (16, 8) of X: rows top…, columns left… and left+8…

    across: whether the second of the four 8 × 8 matrices lies to the right of the first; otherwise it lies below. The
    tile begins at a multiple of 128 bytes.
    """
    bits, pitch = swizzle(columns), 2 * columns
    load = ldmatrix4_t_at if transposed else ldmatrix4_at

    @cuda.jit(device=True)
    def place(lane):
        r = int32(lane % 8 + lane // 16 * 8) if across else int32(lane % 16)
        c = int32(lane // 8 % 2) if across else int32(lane // 16)
        return int32(r * pitch + (c ^ (r & bits)) * 16)

    @cuda.jit(device=True)
    def fragment(shared, at, top, left):
        c = left // 8  # even, so that c + 1 is c xor 1: the thread's own xor and that with c can change places
        low = c & bits
        return load(shared, int32(int32(at ^ (low * 16)) + (top * pitch + (c - low) * 16)))

    return place, fragment


def make_store_pair(width: int) -> Callable:
    """Make the device function that rounds and stores columns `column` and `column` + 1 of a row of this width.

    The row begins at element `at` of the array; columns past the width are not stored. `column` is even.
    """
    pairwise = width % 2 == 0

    @cuda.jit(device=True)
    def store(array, at, column, x0, x1):
        pair = pack_bf16(x0, x1)
        if column < width:
            if pairwise:
                st_pair(array, at + column, pair)
            else:
                array[at + column] = uint16(pair & 0xFFFF)
                if column + 1 < width:
                    array[at + column + 1] = uint16(pair >> 16)

    return store
