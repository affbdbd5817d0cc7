# ruff: noqa: D103 (ptx_address.py describes what each function does)
"""Python versions of the functions of ``ptx_address`` for Numba's simulator. Here every array begins at address 0."""

# like the functions of ptx_address, these accept arguments of many types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import cuda

from gta_cuda.emulated import bits_float, cp_async, float_bits, ldmatrix4, ldmatrix4_t


def shared_address(shared):
    return np.int32(0)


def global_address(array, index):
    return np.int64(int(index) * array.itemsize)


def cp_async16_at(shared, to, array, source, valid):
    assert to % 16 == source % 16 == 0, "not a multiple of 16 bytes"
    cp_async(shared, int(to) // shared.itemsize, array, int(source) // array.itemsize, valid, 16 // shared.itemsize)


def ldmatrix4_at(shared, at):
    return ldmatrix4(shared, _index(at, 2))


def ldmatrix4_t_at(shared, at):
    return ldmatrix4_t(shared, _index(at, 2))


def ld4_at(shared, at, offset):
    i = _index(at + offset, shared.itemsize)
    if shared.itemsize == 4:
        return tuple(shared[i + j] for j in range(4))
    return tuple(bits_float(shared[i + 2 * j], shared[i + 2 * j + 1]) for j in range(4))


def st4_at(shared, at, offset, *values):
    i = _index(at + offset, shared.itemsize)
    for j, x in enumerate(values):
        if shared.itemsize == 4:
            shared[i + j] = x
        else:
            bits = float_bits(x)
            shared[i + 2 * j], shared[i + 2 * j + 1] = bits & 0xFFFF, bits >> 16


def _index(at, size):
    assert at % 16 == 0, "not a multiple of 16 bytes"
    return int(at) // size


@cuda.jit(device=True)
def thread_again():
    return np.int32(cuda.threadIdx.x)


@cuda.jit(device=True)
def group_sync(number, threads):
    cuda.syncthreads()  # all groups have to reach their barriers equally often
