"""The backward's blocks in parts: what each block computes, and the last kernel, which adds the results of the parts.

A block owns a tile of queries or of keys and loops over *steps*. If there are too few tiles for a GPU, several blocks
share the steps of a tile, each with a *part* of them, and store sums of their own in float32. The kernels for dK and dV
also store a sum for each run (see ``backward``). The sums that belong to the same head lie one after the other. A
thread adds up to 4 neighbouring columns of all of them, the first sum first, and rounds once. The results are therefore
equal from run to run.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, float32, int32, int64, uint16

from gta_cuda.intrinsics import div, ld4, pack_bf16, st4, st_pair


@cuda.jit(device=True)
def share(steps, part, parts):
    """The first step of a part, and the first one after it. The lengths of parts differ by at most one step."""
    each = div(steps, parts)
    rest = int32(steps - each * parts)
    first = int32(part * each + min(part, rest))
    return first, int32(first + each + (1 if part < rest else 0))


def make_sum(widths: tuple[int, int, int], pitches: tuple[int, int, int], to_bf16: bool, threads: int) -> Callable:
    """Make the kernel that adds the parts of three arrays, dQ, dK and dV; the results are contiguous.

    Grid (heads · tiles, 1, 3): each thread of a tile adds 4 columns of a row. pitches: distances between the rows that
    are added. An array with a `heads` of 0 is left out.
    """

    def make_add(width, pitch):
        wide, quads = width % 4 == 0 and pitch % 4 == 0, -(-width // 4)
        store = make_store_bf16(width) if to_bf16 else make_store_f32(width)

        @cuda.jit(device=True)
        def add(parts, out, n_rows, heads, count, tiles):
            head = div(cuda.blockIdx.x, tiles)
            i = int32((cuda.blockIdx.x - head * tiles) * threads + cuda.threadIdx.x)
            row = div(i, quads)
            column = int32((i - row * quads) * 4)
            if row < n_rows and head < heads:
                at = (int64(head) * count * n_rows + row) * pitch + column
                step = int64(n_rows) * pitch
                x0 = x1 = x2 = x3 = float32(0)
                for _ in range(count):
                    if wide:
                        y0, y1, y2, y3 = ld4(parts, at)
                        x0 += y0
                        x1 += y1
                        x2 += y2
                        x3 += y3
                    else:
                        x0 += parts[at]
                        if column + 1 < width:
                            x1 += parts[at + 1]
                        if column + 2 < width:
                            x2 += parts[at + 2]
                        if column + 3 < width:
                            x3 += parts[at + 3]
                    at += step
                store(out, (int64(head) * n_rows + row) * width + column, width - column, x0, x1, x2, x3)

        return add

    add_q, add_k, add_v = map(make_add, widths, pitches)

    def backward_sum(
        sums_q, sums_k, sums_v, dq, dk, dv, rows_q, rows_k, tiles, heads_q, heads_k, heads_v, count_q, count_k, count_v
    ):
        if cuda.blockIdx.z == 0:
            add_q(sums_q, dq, rows_q, heads_q, count_q, tiles)
        elif cuda.blockIdx.z == 1:
            add_k(sums_k, dk, rows_k, heads_k, count_k, tiles)
        else:
            add_v(sums_v, dv, rows_k, heads_v, count_v, tiles)

    return backward_sum


def make_store_f32(width: int) -> Callable:
    """Make the device function that stores up to 4 numbers, of which `left` are in the row."""
    wide = width % 4 == 0

    @cuda.jit(device=True)
    def store(out, at, left, x0, x1, x2, x3):
        if wide:
            st4(out, at, x0, x1, x2, x3)
        else:
            out[at] = x0
            if left > 1:
                out[at + 1] = x1
            if left > 2:
                out[at + 2] = x2
            if left > 3:
                out[at + 3] = x3

    return store


def make_store_bf16(width: int) -> Callable:
    """Make the device function that rounds up to 4 numbers, of which `left` are in the row, and stores them."""
    pairwise = width % 2 == 0

    @cuda.jit(device=True)
    def store(out, at, left, x0, x1, x2, x3):
        low, high = pack_bf16(x0, x1), pack_bf16(x2, x3)
        if pairwise:
            st_pair(out, at, low)
            if left > 2:
                st_pair(out, at + 2, high)
        else:
            out[at] = uint16(low & 0xFFFF)
            if left > 1:
                out[at + 1] = uint16(low >> 16)
            if left > 2:
                out[at + 2] = uint16(high & 0xFFFF)
            if left > 3:
                out[at + 3] = uint16(high >> 16)

    return store
