"""What the float32 kernels are made of: rows into shared memory, tile times tile into registers.

A block owns ``rows`` rows of one side (queries, or keys) and walks over the other side, ``columns`` of its rows at a
time. Its threads stand in a grid, ``groups`` side by side; thread (g, h) holds ``height`` rows from h·height on, and
of every matrix that is ``columns`` wide the columns g, g + groups, …

    product      S = X Yᵀ       X (rows, width), Y (columns, width) streamed through shared memory in slabs
    accumulate   Z += W X       W (rows, columns) and X (columns, part) both in shared memory

What this saves is reading: with 4 × 2 results to a thread, 6 loads of 16 bytes from shared memory feed 32
multiply–adds in `product`, and 12 loads feed 128 of them in `accumulate` when its part is 128 columns wide.

A *view* is a tuple (array, start, stride, low, high): row r lies from element start + r·stride on, and exists iff
low <= r < high. Rows that do not exist, and columns past the width, are zeros in shared memory and are never read:
whatever unused slots of a cache hold, it does not come in here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32

from gta_cuda.intrinsics import ld4, st4

SLAB = 64  # columns of d_k or d_v that are in shared memory at once
PART = 128  # columns of the result that a block computes at most; wider results are cut between blocks


class Tile(NamedTuple):
    """The measures of a block. The simulator, where a thread is slow, takes smaller ones."""

    rows: int = 64
    columns: int = 32
    groups: int = 16
    height: int = 4

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.height * self.groups

    @property
    def each(self) -> int:
        """Columns of a product that one thread holds."""
        return self.columns // self.groups

    @property
    def pitch(self) -> int:
        """Between the rows of weights; 4 more than their number keeps threads off each other's memory banks."""
        return self.columns + 4

    def chunks(self, width: int) -> int:
        """How many groups of 4 columns a thread holds of a result, so that all threads together have the width."""
        return -(-min(width, PART) // (4 * self.groups))

    def part(self, width: int) -> int:
        """Columns of the result that a block computes."""
        return self.chunks(width) * 4 * self.groups


TILE = Tile()


def slab(width: int) -> int:
    """Columns of a slab: at most SLAB, a multiple of 4."""
    return min(SLAB, -(-width // 4) * 4)


def make_load4(width: int, wide: bool) -> Callable:
    """Device function: columns [column, column + 4) of the row at `at` - column, zeros past the width.

    wide: every row starts at a multiple of 16 bytes and its width is a multiple of 4.
    """

    @cuda.jit(device=True)
    def load4(array, at, column):
        x0 = x1 = x2 = x3 = float32(0)
        if column < width:
            if wide:
                x0, x1, x2, x3 = ld4(array, at)
            else:
                x0 = array[at]
                if column + 1 < width:
                    x1 = array[at + 1]
                if column + 2 < width:
                    x2 = array[at + 2]
                if column + 3 < width:
                    x3 = array[at + 3]
        return x0, x1, x2, x3

    return load4


def make_load(tile: Tile, rows: int, columns: int, pitch: int, width: int, wide: bool) -> Callable:
    """Device function: `rows` rows of a view, columns [left, left + columns), into shared memory."""
    load4 = make_load4(width, wide)
    quads = columns // 4
    lanes = min(1 << (quads - 1).bit_length(), tile.threads)  # threads side by side; the others go down the rows
    down = tile.threads // lanes
    zero = float32(0)

    @cuda.jit(device=True)
    def load(shared, to, view, first, left):
        array, start, stride, low, high = view
        t = int32(cuda.threadIdx.x)
        # every thread goes round as often as the others: what is equal for a warp, the compiler wants to see
        for n in range(-(-quads // lanes)):
            c = int32(t % lanes + n * lanes)
            column = int32(left + 4 * c)
            at = start + (first + t // lanes) * stride + column
            for m in range(-(-rows // down)):
                r = int32(t // lanes + m * down)
                if c < quads and r < rows:
                    x0 = x1 = x2 = x3 = zero
                    row = int32(first + r)
                    if low <= row < high:
                        x0, x1, x2, x3 = load4(array, at, column)
                    st4(shared, to + r * pitch + 4 * c, x0, x1, x2, x3)
                at += down * stride

    return load


def make_product(tile: Tile, width: int, wide: bool, x_at: int, y_at: int, resident: bool = False) -> Callable:
    """Device function: out = X Yᵀ of rows first_x… of view x and first_y… of view y, over all columns.

    x_at, y_at: where their slabs lie in shared memory. resident: x is there already (and its width is one slab).
    """
    columns = slab(width)
    pitch = columns + 4
    load_x = make_load(tile, tile.rows, columns, pitch, width, wide)
    load_y = make_load(tile, tile.columns, columns, pitch, width, wide)
    groups, height, each = tile.groups, tile.height, tile.each

    @cuda.jit(device=True)
    def product(out, shared, x, first_x, y, first_y):
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        for i in range(height * each):
            out[i] = float32(0)
        for left in range(0, width, columns):
            cuda.syncthreads()  # until nobody reads what lay there
            if not resident:
                load_x(shared, x_at, x, first_x, left)
            load_y(shared, y_at, y, first_y, left)
            cuda.syncthreads()
            for c in range(0, columns, 4):
                for j in range(each):
                    y0, y1, y2, y3 = ld4(shared, y_at + (g + groups * j) * pitch + c)
                    for i in range(height):
                        x0, x1, x2, x3 = ld4(shared, x_at + (top + i) * pitch + c)
                        s = cuda.fma(x0, y0, out[i * each + j])
                        s = cuda.fma(x1, y1, s)
                        s = cuda.fma(x2, y2, s)
                        out[i * each + j] = cuda.fma(x3, y3, s)

    return product


def make_accumulate(tile: Tile, chunks: int, weights_at: int, values_at: int) -> Callable:
    """Device function: out += W X, of which a thread holds `height` rows and `chunks` times 4 columns."""
    groups, height, columns, pitch = tile.groups, tile.height, tile.columns, tile.pitch
    part = chunks * 4 * groups
    held = 4 * chunks

    @cuda.jit(device=True)
    def accumulate(out, shared):
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        for j in range(0, columns, 4):
            for c in range(chunks):
                at = values_at + j * part + (c * groups + g) * 4
                x0, x1, x2, x3 = ld4(shared, at)
                y0, y1, y2, y3 = ld4(shared, at + part)
                z0, z1, z2, z3 = ld4(shared, at + 2 * part)
                u0, u1, u2, u3 = ld4(shared, at + 3 * part)
                for i in range(height):
                    w0, w1, w2, w3 = ld4(shared, weights_at + (top + i) * pitch + j)
                    o = i * held + c * 4
                    out[o] = cuda.fma(w3, u0, cuda.fma(w2, z0, cuda.fma(w1, y0, cuda.fma(w0, x0, out[o]))))
                    out[o + 1] = cuda.fma(w3, u1, cuda.fma(w2, z1, cuda.fma(w1, y1, cuda.fma(w0, x1, out[o + 1]))))
                    out[o + 2] = cuda.fma(w3, u2, cuda.fma(w2, z2, cuda.fma(w1, y2, cuda.fma(w0, x2, out[o + 2]))))
                    out[o + 3] = cuda.fma(w3, u3, cuda.fma(w2, z3, cuda.fma(w1, y3, cuda.fma(w0, x3, out[o + 3]))))

    return accumulate


def make_store(tile: Tile, chunks: int, width: int) -> Callable:
    """Device function: this thread's rows of a result, row i times factors[i], to columns [left, …) of a contiguous
    array.
    """
    groups, height = tile.groups, tile.height
    held = 4 * chunks
    wide = width % 4 == 0

    @cuda.jit(device=True)
    def store(out, factors, array, start, first, high, left):
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        for i in range(height):
            row = first + top + i
            f = factors[i]
            for c in range(chunks):
                column = left + (c * groups + g) * 4
                at = start + row * width + column
                o = i * held + c * 4
                if row < high and column < width:
                    if wide:
                        st4(array, at, out[o] * f, out[o + 1] * f, out[o + 2] * f, out[o + 3] * f)
                    else:
                        array[at] = out[o] * f
                        if column + 1 < width:
                            array[at + 1] = out[o + 1] * f
                        if column + 2 < width:
                            array[at + 2] = out[o + 2] * f
                        if column + 3 < width:
                            array[at + 3] = out[o + 3] * f

    return store


class Memory(NamedTuple):
    """Where things lie in a block's shared memory, in floats. Weights are written when the slab of y is read out."""

    x: int
    y: int  # and the weights
    values: int
    total: int

    @classmethod
    def plan(cls, tile: Tile, widths: tuple[int, ...], part: int) -> Memory:
        """For slabs of all these widths, and a tile of `part` columns of values."""
        pitch = max(slab(width) for width in widths) + 4
        y = tile.rows * pitch
        values = y + max(tile.columns * pitch, tile.rows * tile.pitch)
        return cls(0, y, values, values + tile.columns * part)
