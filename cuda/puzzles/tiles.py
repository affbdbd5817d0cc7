"""Puzzles about tiles: where their elements are, and which of their scores a query sees."""

# Numba infers the types of the kernels when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import cuda, int32

from gta_cuda.puzzles.puzzle import Case, Puzzle
from gta_ref.ops.arrays import Array

# ---- p1


def copy_tile(array, start, stride, first, stop, columns, out):
    """Copy rows first, first + 1, … of an array to a tile, out.

    Row r of the flat array begins at element start + r · stride, and it exists if r < stop. out is flat too: its rows
    lie directly one after the other, `columns` elements each. For a row that does not exist, write zeros and read
    nothing. All threads of the block share the work, and neighbouring threads copy neighbouring elements.
    """
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    for e in range(t, len(out), threads):
        # BEGIN SOLUTION
        row, column = e // columns, e % columns
        out[e] = array[start + (first + row) * stride + column] if first + row < stop else 0
        # END SOLUTION


def _tile_case(what: str, rows: int, columns: int, start: int, stride: int, first: int, stop: int) -> Case:
    array = np.full(start + stop * stride + columns, np.nan, np.float32)
    truth = np.zeros((rows, columns))
    for r in range(stop):
        array[start + r * stride : start + r * stride + columns] = 100 * r + np.arange(columns)
        if first <= r < first + rows:
            truth[r - first] = 100 * r + np.arange(columns)
    out = np.full(rows * columns, np.nan, np.float32)
    return Case(what, (array, start, stride, first, stop, columns, out), 8, truth.ravel())


def _from_row_0(case: Case) -> Array:
    array, start, stride, _, stop, columns, out = case.arguments
    return _tile_case("", len(out) // columns, columns, start, stride, 0, stop).truth


P1 = Puzzle(
    "p1",
    "where an element of a tile is",
    copy_tile,
    (
        "e counts the elements of the tile. Which row and which column of the tile is element e?",
        "Row e // columns of the tile is row first + e // columns of the array, which begins stride elements further "
        "than the row before.",
    ),
    lambda: (
        _tile_case("4 rows of 8 columns, from the beginning", 4, 8, 0, 8, 0, 4),
        _tile_case("rows 3 to 6 of a wider array, from element 5 on", 4, 8, 5, 11, 3, 9),
        _tile_case("two of four rows exist", 4, 6, 2, 10, 5, 7),
    ),
    (("the tile has to begin at row `first` of the array, not at row 0", _from_row_0),),
)

# ---- p4


def mask_tile(scores, q_start, first, j0, k_stop, columns, out):
    """Hide the scores of a tile that its queries do not see: write −∞ in their place, and the others as they are.

    Thread t has row t of the tile, the query first + t. It sees key j if j < k_stop and j <= q_start + first + t. The
    tile's columns are the keys j0, j0 + 1, …; scores and out are flat, with `columns` elements per row. A comparison
    per score is enough: find out before the loop how many columns the row sees.
    """
    t = cuda.threadIdx.x
    # BEGIN SOLUTION
    seen = int32(min(k_stop, q_start + first + t + 1) - j0)
    for c in range(columns):
        out[t * columns + c] = scores[t * columns + c] if c < seen else -math.inf
    # END SOLUTION


def _mask_case(what: str, q_start: int, first: int, j0: int, k_stop: int, shift: int = 0) -> Case:
    rows, columns = 8, 8
    scores = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    i, j = first + np.arange(rows)[:, None], j0 + np.arange(columns)
    truth = np.where((j < k_stop) & (j <= q_start + i + shift), scores, -np.inf)
    out = np.full(rows * columns, np.nan, np.float32)
    return Case(what, (scores.ravel(), q_start, first, j0, k_stop, columns, out), rows, truth.ravel(), scores.size)


def _without_own_key(case: Case) -> Array:
    _, q_start, first, j0, k_stop, *_ = case.arguments
    return _mask_case("", q_start, first, j0, k_stop, -1).truth


P4 = Puzzle(
    "p4",
    "the mask of a tile",
    mask_tile,
    (
        "Row t sees the keys from 0 to the smaller of k_stop − 1 and q_start + first + t.",
        "Counted from the tile's first key, the row sees min(k_stop, q_start + first + t + 1) − j0 columns.",
    ),
    lambda: (
        _mask_case("the diagonal runs through the tile", 0, 0, 0, 8),
        _mask_case("a chunk after 16 tokens; the last keys do not exist", 16, 0, 16, 21),
        _mask_case("a tile that no query sees", 0, 0, 24, 32),
        _mask_case("a tile that every query sees", 0, 40, 8, 100),
    ),
    (("a query sees its own key: j <= q_start + i, not j < q_start + i", _without_own_key),),
)

PUZZLES = (P1, P4)
