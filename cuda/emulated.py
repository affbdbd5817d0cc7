# ruff: noqa: D103 (what each function does is said once, in ptx.py)
"""The twins of ``ptx`` for Numba's simulator: the same results, written out in Python.

A thread of the simulator sees its warp only through shared memory, so what a warp does together waits for the whole
block here: every thread of a block must come by, and as often. The kernels keep to that.
The simulator tells shared arrays apart by the line that asks for them: each line below is one array of the block.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda, float32, int64, uint32

MOST_THREADS = 256


def ld4(array, index):
    return array[index], array[index + 1], array[index + 2], array[index + 3]


def st4(array, index, a, b, c, d):
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
    lanes = cuda.shared.array(MOST_THREADS, float32)
    t = cuda.threadIdx.x
    lanes[t] = value
    cuda.syncthreads()
    found = lanes[t ^ mask]
    cuda.syncthreads()
    return found


@cuda.jit(device=True)
def warp_sync():
    cuda.syncthreads()


def bf16_bits(x):
    bits = int(np.float32(x).view(np.uint32))
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


def pack_bf16(low, high):
    return bf16_bits(low) | (bf16_bits(high) << 16)


def st_pair(array, index, pair):
    array[index], array[index + 1] = pair & 0xFFFF, pair >> 16


def float_bits(x):
    return int(np.float32(x).view(np.uint32))


def bits_float(low, high):
    return np.uint32(pair(low, high)).view(np.float32)


def pair(low, high):
    return int(low) | int(high) << 16


def cp_async16(shared, to, array, index, valid):
    for i in range(8):
        shared[to + i] = array[index + i] if valid else 0


def cp_async_commit():
    """Copies are not asynchronous here; a missing wait is what the simulator cannot find."""


cp_async_wait = (lambda: None, lambda: None)


@cuda.jit(device=True)
def _matrices(shared, index, transposed):
    rows = cuda.shared.array(MOST_THREADS, int64)
    t = cuda.threadIdx.x
    rows[t] = index
    cuda.syncthreads()
    warp, g, p = t // 32 * 32, t % 32 // 4, t % 4 * 2
    pairs = []
    for m in range(4):
        if transposed:
            low, high = shared[rows[warp + 8 * m + p] + g], shared[rows[warp + 8 * m + p + 1] + g]
        else:
            low, high = shared[rows[warp + 8 * m + g] + p], shared[rows[warp + 8 * m + g] + p + 1]
        pairs.append(int(low) | int(high) << 16)
    cuda.syncthreads()
    return tuple(pairs)


def ldmatrix4(shared, index):
    return _matrices(shared, index, False)


def ldmatrix4_t(shared, index):
    return _matrices(shared, index, True)


@cuda.jit(device=True)
def transpose8x8(pair):
    held = cuda.shared.array(MOST_THREADS, uint32)
    t = cuda.threadIdx.x
    held[t] = pair
    cuda.syncthreads()
    warp, g, p = t // 32 * 32, t % 32 // 4, t % 4 * 2
    # element (row, column) of the matrix is half (column mod 2) of thread 4·row + column // 2
    low = int(held[warp + 4 * p + g // 2]) >> 16 * (g % 2) & 0xFFFF
    high = int(held[warp + 4 * (p + 1) + g // 2]) >> 16 * (g % 2) & 0xFFFF
    cuda.syncthreads()
    return low | high << 16


def _floats(pairs):
    """(…, n) packed pairs → (…, 2n) float32."""
    halves = np.stack([pairs & 0xFFFF, pairs >> 16], axis=-1).reshape(*pairs.shape[:-1], -1)
    return (halves.astype(np.uint32) << 16).view(np.float32)


@cuda.jit(device=True)
def mma_bf16(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    fragments = cuda.shared.array((MOST_THREADS, 6), uint32)
    products = cuda.shared.array((MOST_THREADS, 4), float32)
    t = cuda.threadIdx.x
    fragments[t] = a0, a1, a2, a3, b0, b1
    cuda.syncthreads()
    if t % 32 == 0:  # one thread multiplies for its warp
        warp = np.array(fragments[t : t + 32]).reshape(8, 4, 6)  # (g, p/2, register)
        corners = [_floats(warp[:, :, i]) for i in range(6)]  # (8, 8) each; B's are transposed
        a = np.block([[corners[0], corners[2]], [corners[1], corners[3]]])  # (16, 16)
        b = np.concatenate([corners[4], corners[5]], axis=1).T  # (16, 8)
        c = (a.astype(np.float64) @ b).reshape(2, 8, 4, 2)  # (upper or lower, g, p/2, of the pair)
        products[t : t + 32] = c.transpose(1, 2, 0, 3).reshape(32, 4)
    cuda.syncthreads()
    d0, d1, d2, d3 = products[t]
    return c0 + d0, c1 + d1, c2 + d2, c3 + d3
