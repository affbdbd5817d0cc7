"""Puzzles about shared memory: a missing barrier, and the addresses of ``ldmatrix``."""

# Numba infers the types of the kernels when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import cuda, float32, uint16

from gta_cuda.intrinsics import ldmatrix4
from gta_cuda.puzzles.puzzle import Case, Puzzle
from gta_ref.ops.arrays import Array

# ---- p2


def reverse_tiles(array, out):
    """Reverse the order of the elements within every tile of 8: tile 0 becomes 7, 6, …, 0.

    Each of the 8 threads copies one element of a tile to shared memory, and another thread reads it. This kernel has a
    barrier too few. In the simulator its numbers are often right, and on a GPU as well; the check finds the race. Where
    does the other barrier have to be, and why?
    """
    tile = cuda.shared.array(8, float32)
    t = cuda.threadIdx.x
    for first in range(0, len(array), 8):
        tile[t] = array[first + t]
        cuda.syncthreads()
        out[first + t] = tile[7 - t]
        # BEGIN SOLUTION
        cuda.syncthreads()
        # END SOLUTION


def _reverse_case(what: str, tiles: int) -> Case:
    array = np.arange(8 * tiles, dtype=np.float32)
    truth = array.reshape(tiles, 8)[:, ::-1].ravel().astype(np.float64)
    return Case(what, (array, np.full(8 * tiles, np.nan, np.float32)), 8, truth, 8 * tiles)


P2 = Puzzle(
    "p2",
    "a missing barrier",
    reverse_tiles,
    (
        "The barrier that is there separates writing a tile from reading it. What happens when a fast thread begins "
        "the next tile?",
        "A thread must not overwrite tile[t] before thread 7 − t has read it: there has to be a barrier after the read "
        "as well.",
    ),
    lambda: (_reverse_case("one tile", 1), _reverse_case("three tiles", 3)),
    gap="",
)

# ---- p5


def key_fragments(keys, top, left, out):
    """Load two operands B of S = Q Kᵀ from a swizzled tile: keys top … top + 15, columns left … left + 15.

    The tile has rows of 64 bfloat16, and group c of 8 columns of row r is in place c xor (r mod 8). ldmatrix4(shared,
    index) loads four 8 × 8 matrices: thread 8m + r passes the index of the first element of row r of matrix m, and
    every thread receives two neighbouring elements of each matrix. The four matrices have to be

        m = 0: keys top + 0 … 7, columns left + 0 … 7        m = 1: keys top + 0 … 7, columns left + 8 … 15
        m = 2: keys top + 8 … 15, columns left + 0 … 7       m = 3: keys top + 8 … 15, columns left + 8 … 15

    Compute `index`. keys (flat, 32 rows) is copied to shared memory for you.
    """
    shared = cuda.shared.array(2048, uint16)
    t = cuda.threadIdx.x
    for e in range(t, 2048, 32):
        row, group = e // 64, e % 64 // 8
        shared[row * 64 + (group ^ (row % 8)) * 8 + e % 8] = keys[e]
    cuda.syncthreads()
    # BEGIN SOLUTION
    row = top + t % 8 + t // 16 * 8
    group = left // 8 + t // 8 % 2
    index = row * 64 + (group ^ (row % 8)) * 8
    # END SOLUTION
    found = ldmatrix4(shared, index)
    for m in range(4):
        out[4 * t + m] = found[m]


def _fragment_case(what: str, top: int, left: int, swap: bool = False, swizzled: bool = True) -> Case:
    keys = np.arange(2048, dtype=np.uint16).reshape(32, 64)
    stored = keys
    if not swizzled:  # what a thread finds if it takes no account of the swizzle
        stored = np.stack([keys[r].reshape(8, 8)[np.arange(8) ^ r % 8].ravel() for r in range(32)])
    truth = np.empty((32, 4))
    for t in range(32):
        for m in range(4):
            down, right = (m % 2, m // 2) if swap else (m // 2, m % 2)
            at = top + 8 * down + t // 4, left + 8 * right + t % 4 * 2
            truth[t, m] = int(stored[at]) | int(stored[at[0], at[1] + 1]) << 16
    out = np.full(128, 0xFFFFFFFF, np.uint32)
    return Case(what, (keys.ravel(), top, left, out), 32, truth.ravel(), 2048)


def _swapped(case: Case) -> Array:
    return _fragment_case("", case.arguments[1], case.arguments[2], swap=True).truth


def _not_swizzled(case: Case) -> Array:
    return _fragment_case("", case.arguments[1], case.arguments[2], swizzled=False).truth


P5 = Puzzle(
    "p5",
    "the addresses of ldmatrix",
    key_fragments,
    (
        "Thread t belongs to matrix t // 8 and passes the address of its row t mod 8.",
        "Matrices 2 and 3 are 8 keys further down: that is t // 16. Matrices 1 and 3 are 8 columns, one group, further "
        "right: that is t // 8 mod 2.",
        "The xor uses the row of the tile, not that of the matrix: (left // 8 + t // 8 % 2) ^ (row % 8).",
    ),
    lambda: (_fragment_case("the tile's corner", 0, 0), _fragment_case("keys 16 to 31, columns 32 to 47", 16, 32)),
    (
        ("matrices 1 and 2 are exchanged: the second matrix lies to the right of the first, not below", _swapped),
        ("the places are those of a tile that is not swizzled: group c of row r is in place c xor (r mod 8)",
         _not_swizzled),
    ),
)  # fmt: skip

PUZZLES = (P2, P5)
