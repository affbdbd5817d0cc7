"""The building blocks of the float32 kernels: loading rows into shared memory, multiplying tiles into registers.

A block owns ``rows`` rows of one side (queries or keys) and loops over the rows of the other side, ``columns`` at a
time. Its threads form a grid, ``groups`` side by side. Thread (g, h) holds ``height`` rows from h·height on; in a
matrix of width ``columns``, it holds columns g, g + groups, …

    product      S = X Yᵀ       X (rows, width), Y (columns, width) streamed through shared memory in slabs
    accumulate   Z += W X       W (rows, columns) and X (columns, part) both in shared memory

This saves reads: with 4 × 2 results per thread, 6 loads of 16 bytes from shared memory serve 32 multiply–adds in
`product`, and 12 loads serve 128 of them in `accumulate` if its part is 128 columns wide.

A *view* is a tuple (array, start, stride, low, high): row r begins at element start + r·stride, and it exists iff
low <= r < high. Rows that do not exist and columns past the width are never read; shared memory holds zeros for them.
So the contents of a cache's unused slots cannot reach a result.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba import cuda, float32, int32, int64

from gta_cuda.intrinsics import cp_async16_at, global_address, ld4, ld4_at, shared_address, st4

SLAB = 64  # most columns of d_k or d_v that are in shared memory at once
PART = 128  # most columns of the result that a block computes; wider results are divided among blocks


class Tile(NamedTuple):
    """The sizes of a block. The simulator, whose threads are slow, uses smaller ones."""

    rows: int = 64
    columns: int = 32
    groups: int = 16
    height: int = 4

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows // self.height * self.groups

    @property
    def each(self) -> int:
        """Columns of a product that one thread holds."""
        return self.columns // self.groups

    @property
    def pitch(self) -> int:
        """Distance between rows of weights in shared memory: 4 more than their width, to avoid bank conflicts."""
        return self.columns + 4

    def chunks(self, width: int) -> int:
        """Groups of 4 columns of a result that a thread holds, so that all threads together cover the width."""
        return -(-min(width, PART) // (4 * self.groups))

    def part(self, width: int) -> int:
        """Columns of the result that a block computes, a multiple of 4 · groups."""
        return self.chunks(width) * 4 * self.groups


TILE = Tile()


def slab(width: int) -> int:
    """Columns of a slab: the width rounded up to a multiple of 4, at most SLAB."""
    return min(SLAB, -(-width // 4) * 4)


def make_load4(width: int, wide: bool) -> Callable:
    """Make the device function that returns columns [column, column + 4) of a row, with zeros past the width.

    Its argument `at` is the index of the element in the first of these columns.
    wide: every row starts at a multiple of 16 bytes, and its width is a multiple of 4.
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
    """Make the device function that loads `rows` rows of a view, columns [left, left + columns), into shared memory."""
    load4 = make_load4(width, wide)
    quads = columns // 4
    lanes = min(1 << (quads - 1).bit_length(), tile.threads)  # threads on one row; the others take further rows
    down = tile.threads // lanes
    zero = float32(0)

    @cuda.jit(device=True)
    def load(shared, to, view, first, left):
        array, start, stride, low, high = view
        t = int32(cuda.threadIdx.x)
        # all threads make equally many iterations, so that the compiler can see that a warp does not diverge
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


def make_fetch(tile: Tile, rows: int, columns: int, pitch: int, width: int, wide: bool) -> Callable:
    """Make a device function with the arguments of ``make_load``'s, which starts asynchronous copies if `wide`.

    The rows begin at or after the first one that exists. If not `wide`, it is ``make_load``.
    """
    if not wide:
        return make_load(tile, rows, columns, pitch, width, wide)
    quads = columns // 4
    lanes = min(16, 1 << (quads - 1).bit_length(), tile.threads)  # threads on one row; each takes every lanes-th quad
    down = tile.threads // lanes
    passes = -(-quads // lanes)
    whole = quads % lanes == 0 and rows % down == 0  # all threads always copy
    full = width % columns == 0  # all columns of each slab exist

    @cuda.jit(device=True)
    def fetch(shared, to, view, first, left):
        array, start, stride, _, high = view
        t = int32(cuda.threadIdx.x)
        row, c = int32(t // lanes), int32(t % lanes)
        source = global_address(array, start + int64(int32(first + row)) * stride + (left + 4 * c))
        at = int32(shared_address(shared) + to * 4 + int32(row * (4 * pitch)) + c * 16)
        below = int32(high - first - row)
        for m in range(-(-rows // down)):
            for n in range(passes):
                if whole or (c + n * lanes < quads and row + m * down < rows):
                    exists = int32(m * down) < below
                    if not full:
                        exists = exists and left + 4 * (c + n * lanes) < width
                    place = int32(at + (m * down * pitch * 4 + n * lanes * 16))
                    cp_async16_at(shared, place, array, source + n * lanes * 16, exists)
            source += 4 * down * stride

    return fetch


def repeat(function: Callable, n: int) -> Callable:
    """Make the device function that calls `function` n times, with a number from 0 to n − 1 as its last argument.

    The compiler does not unroll a loop as long as these, and an address that is not a constant costs instructions.
    """
    if n == 1:
        return function
    before, last = repeat(function, n - 1), n - 1

    @cuda.jit(device=True)
    def several(out, shared, a, b, i):
        before(out, shared, a, b, i)
        function(out, shared, a, b, i + last)

    return several


def make_multiply(tile: Tile, columns: int, x_at: int, y_at: int) -> Callable:
    """Make the device function for out += X Yᵀ; the slabs have `columns` columns and begin at these places."""
    pitch = columns + 4
    groups, height, each = tile.groups, tile.height, tile.each
    at_once = next(n for n in (4, 2, 1) if columns % (4 * n) == 0)

    @cuda.jit(device=True)
    def four_columns(out, shared, x, y, c):
        for j in range(each):
            y0, y1, y2, y3 = ld4_at(shared, y, (groups * j * pitch + 4 * c) * 4)
            for i in range(height):
                x0, x1, x2, x3 = ld4_at(shared, x, (i * pitch + 4 * c) * 4)
                s = cuda.fma(x0, y0, out[i * each + j])
                s = cuda.fma(x1, y1, s)
                s = cuda.fma(x2, y2, s)
                out[i * each + j] = cuda.fma(x3, y3, s)

    several = repeat(four_columns, at_once)

    @cuda.jit(device=True)
    def multiply(out, shared):
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        origin = shared_address(shared)
        x = int32(int32(origin + 4 * x_at) + int32(top * (4 * pitch)))
        y = int32(int32(origin + 4 * y_at) + int32(g * (4 * pitch)))
        for c in range(0, columns, 4 * at_once):
            several(out, shared, int32(x + 4 * c), int32(y + 4 * c), 0)

    return multiply


def make_product(tile: Tile, width: int, wide: bool, x_at: int, y_at: int, resident: bool = False) -> Callable:
    """Make the device function for out = X Yᵀ: X has rows first_x… of view x, Y has rows first_y… of view y.

    The sums run over all columns. x_at, y_at: the places of their slabs in shared memory.
    resident: x is in shared memory already, and its width is one slab.
    """
    columns = slab(width)
    pitch = columns + 4
    load_x = make_load(tile, tile.rows, columns, pitch, width, wide)
    load_y = make_load(tile, tile.columns, columns, pitch, width, wide)
    multiply = make_multiply(tile, columns, x_at, y_at)
    n_out = tile.height * tile.each

    @cuda.jit(device=True)
    def product(out, shared, x, first_x, y, first_y):
        for i in range(n_out):
            out[i] = float32(0)
        for left in range(0, width, columns):
            cuda.syncthreads()  # wait until all threads have read the previous slabs
            if not resident:
                load_x(shared, x_at, x, first_x, left)
            load_y(shared, y_at, y, first_y, left)
            cuda.syncthreads()
            multiply(out, shared)

    return product


def make_accumulate(tile: Tile, chunks: int, weights_at: int, values_at: int) -> Callable:
    """Make the device function for out += W X, of which a thread holds `height` rows and `chunks` · 4 columns."""
    groups, height, columns, pitch = tile.groups, tile.height, tile.columns, tile.pitch
    part = chunks * 4 * groups
    held = 4 * chunks

    @cuda.jit(device=True)
    def four_rows(out, shared, w, x, j):
        for c in range(chunks):
            at = (4 * j * part + c * groups * 4) * 4
            x0, x1, x2, x3 = ld4_at(shared, x, at)
            y0, y1, y2, y3 = ld4_at(shared, x, at + 4 * part)
            z0, z1, z2, z3 = ld4_at(shared, x, at + 8 * part)
            u0, u1, u2, u3 = ld4_at(shared, x, at + 12 * part)
            for i in range(height):
                w0, w1, w2, w3 = ld4_at(shared, w, (i * pitch + 4 * j) * 4)
                o = i * held + c * 4
                out[o] = cuda.fma(w3, u0, cuda.fma(w2, z0, cuda.fma(w1, y0, cuda.fma(w0, x0, out[o]))))
                out[o + 1] = cuda.fma(w3, u1, cuda.fma(w2, z1, cuda.fma(w1, y1, cuda.fma(w0, x1, out[o + 1]))))
                out[o + 2] = cuda.fma(w3, u2, cuda.fma(w2, z2, cuda.fma(w1, y2, cuda.fma(w0, x2, out[o + 2]))))
                out[o + 3] = cuda.fma(w3, u3, cuda.fma(w2, z3, cuda.fma(w1, y3, cuda.fma(w0, x3, out[o + 3]))))

    at_once = 2 if columns % 8 == 0 and height * held <= 64 else 1
    several = repeat(four_rows, at_once)

    @cuda.jit(device=True)
    def accumulate(out, shared):
        t = int32(cuda.threadIdx.x)
        g, top = int32(t % groups), int32(t // groups * height)
        origin = shared_address(shared)
        w = int32(int32(origin + 4 * weights_at) + int32(top * (4 * pitch)))
        x = int32(int32(origin + 4 * values_at) + int32(g * 16))
        for j in range(0, columns, 4 * at_once):
            several(out, shared, int32(w + 4 * j), int32(x + j * (4 * part)), 0)

    return accumulate


def make_store(tile: Tile, chunks: int, width: int) -> Callable:
    """Make the device function that stores a thread's part of a result, with row i multiplied by factors[i].

    The target is a contiguous array, from column `left` on.
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
    """Places in a block's shared memory, counted in floats. Weights replace the slab of y once it has been read."""

    x: int
    y: int  # also the place of the weights
    values: int
    total: int

    @classmethod
    def plan(cls, tile: Tile, widths: tuple[int, ...], part: int) -> Memory:
        """The places for slabs of all these widths and a tile of values with `part` columns."""
        pitch = max(slab(width) for width in widths) + 4
        y = tile.rows * pitch
        values = y + max(tile.columns * pitch, tile.rows * tile.pitch)
        return cls(0, y, values, values + tile.columns * part)
