"""A kernel with a single wgmma, which shows where the instruction reads its operands; ``first_run.wgmma`` runs it."""

# Numba infers the types of the kernels and of their parts when it compiles them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import cuda, float32, int32, uint16, uint32

from gta_cuda.forward_wgmma import ALIGNMENT, WARPGROUP, descriptor, show, wgmma
from gta_cuda.intrinsics import pair, shared_address
from gta_cuda.kernels import COUNT, FLOATS, HALVES, Kernel

ELEMENTS = 16384  # of shared memory, all of which the instruction may address


def probe_kernel(n: int, transposed: bool) -> Kernel:
    """The kernel that computes d (64, n) = A B, with one warpgroup.

    Its arguments are a (64, 16), the image of shared memory (ELEMENTS,), d, and the descriptor: leading and stride in
    bytes, and the element at which B begins.
    """
    product, wait = wgmma.make_product(n, (0,), transposed, False), wgmma.make_wait(0, n // 2, 4)
    n_d = n // 2

    def probe(a, image, d, leading, stride, start):
        shared = cuda.shared.array(ELEMENTS, uint16, alignment=ALIGNMENT)
        operand = cuda.local.array(4, uint32)
        result = cuda.local.array(n_d, float32)
        t = int32(cuda.threadIdx.x)
        row, column = int32(t // 32 * 16 + t % 32 // 4), int32(t % 4 * 2)
        for i in range(t, int32(ELEMENTS), int32(WARPGROUP)):
            shared[i] = image[i]
        show(shared)
        cuda.syncthreads()
        for i in range(4):
            at = (row + i % 2 * 8) * 16 + column + i // 2 * 8
            operand[i] = pair(a[at], a[at + 1])
        product(result, operand, descriptor(shared, shared_address(shared) + 2 * start, leading, stride))
        wait(result, operand)
        for j in range(n_d):
            d[(row + j // 2 % 2 * 8) * n + j // 4 * 8 + column + j % 2] = result[j]

    arguments = (HALVES, HALVES, FLOATS, COUNT, COUNT, COUNT)
    return Kernel(f"wgmma probe {n}", probe, arguments, WARPGROUP, tensor_cores=True)
