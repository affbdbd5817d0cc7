"""Adding up what groups of warps have found for the same queries and different keys, in shared memory.

A thread of every group holds the same rows and columns of the result. A group's sums are relative to its own base of
each row (``forward_bf16``), so both sides are multiplied before they are added. The order is fixed: the first group
adds the second group's sums to its own, then the third group's, and so on.
"""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from numba import cuda, int32

from gta_cuda.intrinsics import exp2, ld4_at, st4_at


def make_add_up(splits: int, threads: int, height: int, part: int) -> Callable:
    """Make the device function after which the first group holds the sums of all `splits` groups of `threads` threads.

    Its arguments: `origin` is the address of shared memory, of which it uses results_bytes(…). result: for each of
    `height` row tiles, 4 columns per 8 of `part`. base, total: for each row, of which a row tile has two per thread.
    """
    per_tile = part // 8  # vectors of four results
    pitch = 16 * threads  # between a thread's vectors, so that neighbours write side by side

    @cuda.jit(device=True)
    def hand_over(shared, at, result, base, total):
        for i in range(height * per_tile):
            o = 4 * i
            st4_at(shared, at, i * pitch, result[o], result[o + 1], result[o + 2], result[o + 3])
        for h in range(height):
            u, w = 2 * h, 2 * h + 1
            st4_at(shared, at, (height * per_tile + h) * pitch, base[u], base[w], total[u], total[w])

    @cuda.jit(device=True)
    def take_over(shared, at, result, base, total):
        for h in range(height):
            u, w = 2 * h, 2 * h + 1
            other_u, other_w, total_u, total_w = ld4_at(shared, at, (height * per_tile + h) * pitch)
            least_u, least_w = min(base[u], other_u), min(base[w], other_w)  # bases have a minus sign
            mine_u, mine_w = exp2(least_u - base[u]), exp2(least_w - base[w])
            theirs_u, theirs_w = exp2(least_u - other_u), exp2(least_w - other_w)
            base[u], base[w] = least_u, least_w
            total[u] = total[u] * mine_u + total_u * theirs_u
            total[w] = total[w] * mine_w + total_w * theirs_w
            for n in range(per_tile):
                o = 4 * (h * per_tile + n)
                r0, r1, r2, r3 = ld4_at(shared, at, (h * per_tile + n) * pitch)
                result[o] = result[o] * mine_u + r0 * theirs_u
                result[o + 1] = result[o + 1] * mine_u + r1 * theirs_u
                result[o + 2] = result[o + 2] * mine_w + r2 * theirs_w
                result[o + 3] = result[o + 3] * mine_w + r3 * theirs_w

    @cuda.jit(device=True)
    def add_up(shared, origin, group, thread, result, base, total):
        at = int32(origin + 16 * thread)
        for g in range(1, splits):
            cuda.syncthreads()
            if group == g:
                hand_over(shared, at, result, base, total)
            cuda.syncthreads()
            if group == 0:
                take_over(shared, at, result, base, total)

    return add_up


def results_bytes(splits: int, rows: int, part: int) -> int:
    """Bytes of shared memory in which one group hands over what it has found for `rows` queries."""
    return 4 * rows * (part + 16) if splits > 1 else 0
