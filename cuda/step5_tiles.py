"""How steps 5a to 5d of the ladder bring a tile to shared memory, and how a warp reads fragments from it.

A tile has rows of `columns` bfloat16. The two choices of ``make_tiles``:

    swizzled   group c of 8 columns of row r is stored in place c xor (r mod 8); otherwise, in place c
    by_pairs   a thread reads the pairs of its fragment one by one; otherwise, ``ldmatrix`` reads 8 × 8 matrices

Shared memory has 32 banks of 4 bytes. A warp's read takes as many cycles (*wavefronts*) as the busiest bank has
different words to deliver. Rows of 64 and of 128 columns begin in the same bank:

    what a warp reads                    not swizzled                          swizzled
    a pair of K's fragment (two halves)  2 · 8: 8 rows in the same 4 banks     2 · 1
    a pair of V's fragment (two halves)  2 · 4: 4 rows, 8 neighbours each      2 · 1
    ldmatrix of four 8 × 8 matrices      4 · 8: 8 rows in the same 4 banks     4 · 1
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def, no-redef"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, int32

from gta_cuda.intrinsics import cp_async16, ldmatrix4_at, ldmatrix4_t_at, pair, shared_address
from gta_cuda.tiles_bf16 import swizzle


def make_place(columns: int, swizzled: bool) -> Callable:
    """Make the device function place(row, column) → the index of an element in its tile."""
    bits = swizzle(columns) if swizzled else 0

    @cuda.jit(device=True)
    def place(row, column):
        return int32(row * columns + ((column // 8) ^ (row & bits)) * 8 + column % 8)

    return place


def make_load(rows: int, columns: int, swizzled: bool, threads: int) -> Callable:
    """Make the device function that starts copying rows `first`… of a view (see ``tiles``) to a tile, 16 bytes each."""
    place = make_place(columns, swizzled)
    groups = columns // 8

    @cuda.jit(device=True)
    def load(shared, to, view, first):
        array, start, stride, stop = view
        for e in range(cuda.threadIdx.x, rows * groups, threads):
            row, column = e // groups, e % groups * 8
            exists = first + row < stop
            at = start + (first + row) * stride + column
            # the address has to be valid even if nothing is read
            cp_async16(shared, to + place(row, column), array, at if exists else start, exists)

    return load


def make_fragments(columns_k: int, columns_v: int, swizzled: bool, by_pairs: bool) -> tuple[Callable, Callable]:
    """Make the device functions for the operands B of S = Q Kᵀ and of Z = P V.

    keys(shared, tile, top, left, lane): keys top… and top + 8…, 16 columns of d_k from `left`.
    values(shared, tile, top, left, lane): 16 keys from `top`, columns left… and left + 8… of d_v.
    Each returns two operands of two registers. With g = lane // 4 and p = 2(lane mod 4), an operand has the elements
    (p, g), (p + 1, g) in its first register and (p + 8, g), (p + 9, g) in its second.
    """
    place_k, place_v = make_place(columns_k, swizzled), make_place(columns_v, swizzled)

    if by_pairs:

        @cuda.jit(device=True)
        def key_pair(shared, tile, key, column):
            at = tile + place_k(key, column)
            return pair(shared[at], shared[at + 1])

        @cuda.jit(device=True)
        def value_pair(shared, tile, key, column):
            return pair(shared[tile + place_v(key, column)], shared[tile + place_v(key + 1, column)])

        @cuda.jit(device=True)
        def keys(shared, tile, top, left, lane):
            key, column = int32(top + lane // 4), int32(left + lane % 4 * 2)
            return (
                key_pair(shared, tile, key, column),
                key_pair(shared, tile, key, column + 8),
                key_pair(shared, tile, key + 8, column),
                key_pair(shared, tile, key + 8, column + 8),
            )

        @cuda.jit(device=True)
        def values(shared, tile, top, left, lane):
            key, column = int32(top + lane % 4 * 2), int32(left + lane // 4)
            return (
                value_pair(shared, tile, key, column),
                value_pair(shared, tile, key + 8, column),
                value_pair(shared, tile, key, column + 8),
                value_pair(shared, tile, key + 8, column + 8),
            )

        return keys, values

    @cuda.jit(device=True)
    def keys(shared, tile, top, left, lane):
        # thread 8m + r names row r of matrix m: keys top + 8(m // 2)…, columns left + 8(m mod 2)…
        at = tile + place_k(top + lane % 8 + lane // 16 * 8, left + lane // 8 % 2 * 8)
        return ldmatrix4_at(shared, int32(shared_address(shared) + 2 * at))

    @cuda.jit(device=True)
    def values(shared, tile, top, left, lane):
        # matrix m: keys top + 8(m mod 2)…, columns left + 8(m // 2)…; the instruction transposes it
        at = tile + place_v(top + lane % 16, left + lane // 16 * 8)
        return ldmatrix4_t_at(shared, int32(shared_address(shared) + 2 * at))

    return keys, values
