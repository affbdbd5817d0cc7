# ruff: noqa: D103 (ptx.py describes what each function does)
"""Python versions of the functions of ``ptx`` for Numba's simulator, with the same results.

Operations of a warp wait for the whole block here. So every thread of a block has to reach them, and equally often; the
kernels do so. The simulator runs one block at a time. The arrays through which its threads exchange data are therefore
created once, with one element per thread.

These versions are stricter than a GPU about faults that a GPU would show only sometimes: a wide access at an
unaligned index is an error, and the target of an asynchronous copy holds NaN until the thread has waited for the copy.
"""

# like the functions of ptx, these accept arguments of many types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
import threading

import numpy as np
from numba import cuda

MOST_THREADS = 256
NAN = 0xFFFF  # as a bfloat16
LANES = np.empty(MOST_THREADS, np.float32)
ROWS = np.empty(MOST_THREADS, np.int64)
HELD = np.empty(MOST_THREADS, np.uint32)
FRAGMENTS = np.empty((MOST_THREADS, 6), np.uint32)
PRODUCTS = np.empty((MOST_THREADS, 4), np.float32)


def ld4(array, index):
    assert index % 4 == 0, "not a multiple of 16 bytes"
    return array[index], array[index + 1], array[index + 2], array[index + 3]


def st4(array, index, a, b, c, d):
    assert index % 4 == 0, "not a multiple of 16 bytes"
    array[index], array[index + 1], array[index + 2], array[index + 3] = a, b, c, d


def exp2(x):
    return np.float32(0) if x <= -150 else np.float32(math.exp2(x))  # the instruction flushes to 0


def log2(x):
    return np.float32(-math.inf) if x == 0 else np.float32(math.log2(x))


def inverse(x):
    return np.float32(1) / x


def div(a, b):
    return int(a) // int(b)


@cuda.jit(device=True)
def shfl_xor(value, mask):
    t = cuda.threadIdx.x
    LANES[t] = value
    cuda.syncthreads()
    found = LANES[t ^ mask]
    cuda.syncthreads()
    return found


@cuda.jit(device=True)
def warp_sync():
    cuda.syncthreads()


def bf16_bits(x):
    if x != x:
        return 0x7FFF  # the instruction returns this NaN; rounding a NaN's bits could turn it into a number
    bits = int(np.float32(x).view(np.uint32))
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


def pack_bf16(low, high):
    return bf16_bits(low) | (bf16_bits(high) << 16)


def st_pair(array, index, pair):
    assert index % 2 == 0, "not a multiple of 4 bytes"
    array[index], array[index + 1] = pair & 0xFFFF, pair >> 16


def float_bits(x):
    return int(np.float32(x).view(np.uint32))


def bits_float(low, high):
    return np.uint32(pair(low, high)).view(np.float32)


def pair(low, high):
    return int(low) | int(high) << 16


class Copies(threading.local):
    """The asynchronous copies of a thread, in groups; the last group is still open."""

    def __init__(self):
        self.groups = [[]]


COPIES = Copies()


def cp_async16(shared, to, array, index, valid):
    assert to % 8 == index % 8 == 0, "not a multiple of 16 bytes"
    cp_async(shared, to, array, index, valid, 8)


def cp_async(shared, to, array, index, valid, n):
    """Copy n elements. Until the copy has arrived, reading them gives NaN."""
    values = [array[index + i] if valid else 0 for i in range(n)]
    for i in range(n):
        shared[to + i] = NAN if shared.dtype == np.uint16 else np.nan
    COPIES.groups[-1].append((shared, to, values))


def cp_async_commit():
    COPIES.groups.append([])


def _wait(n):
    def wait():
        """Let the copies arrive. They do not arrive earlier, so a missing wait shows."""
        while len(COPIES.groups) > n + 1:
            for shared, to, values in COPIES.groups.pop(0):
                for i, x in enumerate(values):
                    shared[to + i] = x

    return wait


cp_async_wait = (_wait(0), _wait(1))


@cuda.jit(device=True)
def _matrices(shared, index, transposed):
    assert index % 8 == 0, "not a multiple of 16 bytes"
    t = cuda.threadIdx.x
    ROWS[t] = index
    cuda.syncthreads()
    warp, g, p = t // 32 * 32, t % 32 // 4, t % 4 * 2
    pairs = []
    for m in range(4):
        if transposed:
            low, high = shared[ROWS[warp + 8 * m + p] + g], shared[ROWS[warp + 8 * m + p + 1] + g]
        else:
            low, high = shared[ROWS[warp + 8 * m + g] + p], shared[ROWS[warp + 8 * m + g] + p + 1]
        pairs.append(int(low) | int(high) << 16)
    cuda.syncthreads()
    return tuple(pairs)


def ldmatrix4(shared, index):
    return _matrices(shared, index, False)


def ldmatrix4_t(shared, index):
    return _matrices(shared, index, True)


@cuda.jit(device=True)
def transpose8x8(pair):
    t = cuda.threadIdx.x
    HELD[t] = pair
    cuda.syncthreads()
    warp, g, p = t // 32 * 32, t % 32 // 4, t % 4 * 2
    # element (row, column) of the matrix is half (column mod 2) of thread 4·row + column // 2
    low = int(HELD[warp + 4 * p + g // 2]) >> 16 * (g % 2) & 0xFFFF
    high = int(HELD[warp + 4 * (p + 1) + g // 2]) >> 16 * (g % 2) & 0xFFFF
    cuda.syncthreads()
    return low | high << 16


def _floats(pairs):
    """(…, n) packed pairs → (…, 2n) float32."""
    halves = np.stack([pairs & 0xFFFF, pairs >> 16], axis=-1).reshape(*pairs.shape[:-1], -1)
    return (halves.astype(np.uint32) << 16).view(np.float32)


@cuda.jit(device=True)
def mma_bf16(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    t = cuda.threadIdx.x
    FRAGMENTS[t] = a0, a1, a2, a3, b0, b1
    cuda.syncthreads()
    if t % 32 == 0:  # the first thread of each warp multiplies for the warp
        warp = FRAGMENTS[t : t + 32].reshape(8, 4, 6)  # (g, p/2, register)
        corners = [_floats(warp[:, :, i]) for i in range(6)]  # (8, 8) each; B's are transposed
        a = np.block([[corners[0], corners[2]], [corners[1], corners[3]]])  # (16, 16)
        b = np.concatenate([corners[4], corners[5]], axis=1).T  # (16, 8)
        c = (a.astype(np.float64) @ b).reshape(2, 8, 4, 2)  # (upper or lower half, g, p/2, element of the pair)
        PRODUCTS[t : t + 32] = c.transpose(1, 2, 0, 3).reshape(32, 4)
    cuda.syncthreads()
    d0, d1, d2, d3 = PRODUCTS[t]
    return c0 + d0, c1 + d1, c2 + d2, c3 + d3
