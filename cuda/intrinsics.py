"""Instructions that Numba CUDA does not offer, or their Python versions in the simulator.

Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``) runs a kernel as Python threads. It has no shuffles and no tensor
cores, so ``emulated`` implements them in Python. On a GPU, and when a kernel is compiled, ``ptx`` emits the real
instructions. The kernels import from this module and work with both.

Only the simulator works without numba-cuda: the ``numba.cuda`` that comes with Numba itself cannot compile the kernels.
"""

from __future__ import annotations

from gta_cuda.needs import SIMULATED, no_kernels

if (reason := no_kernels()) is not None:
    raise ModuleNotFoundError(reason, name="numba_cuda")

# alignment of shared arrays in bytes; with only that of its elements, an array might not allow loads of 16 bytes
ALIGNMENT = None if SIMULATED else 16

if SIMULATED:
    from gta_cuda import simulator

    simulator.extend()
    from gta_cuda.emulated import (
        bf16_bits,
        bits_float,
        cp_async16,
        cp_async_commit,
        cp_async_wait,
        div,
        exp2,
        float_bits,
        inverse,
        ld4,
        ldmatrix4,
        log2,
        mma_bf16,
        pack_bf16,
        pair,
        shfl_xor,
        st4,
        st_pair,
        transpose8x8,
        warp_sync,
    )
    from gta_cuda.emulated_address import (
        cp_async16_at,
        global_address,
        group_sync,
        ld4_at,
        ldmatrix4_at,
        ldmatrix4_t_at,
        shared_address,
        st4_at,
        thread_again,
    )
else:
    from gta_cuda.ptx import (
        bf16_bits,
        bits_float,
        cp_async16,
        cp_async_commit,
        cp_async_wait,
        div,
        exp2,
        float_bits,
        inverse,
        ld4,
        ldmatrix4,
        log2,
        mma_bf16,
        pack_bf16,
        pair,
        shfl_xor,
        st4,
        st_pair,
        transpose8x8,
        warp_sync,
    )
    from gta_cuda.ptx_address import (
        cp_async16_at,
        global_address,
        group_sync,
        ld4_at,
        ldmatrix4_at,
        ldmatrix4_t_at,
        shared_address,
        st4_at,
        thread_again,
    )

__all__ = [
    "ALIGNMENT",
    "SIMULATED",
    "bf16_bits",
    "bits_float",
    "cp_async16",
    "cp_async16_at",
    "cp_async_commit",
    "cp_async_wait",
    "div",
    "exp2",
    "float_bits",
    "global_address",
    "group_sync",
    "inverse",
    "ld4",
    "ld4_at",
    "ldmatrix4",
    "ldmatrix4_at",
    "ldmatrix4_t_at",
    "log2",
    "mma_bf16",
    "pack_bf16",
    "pair",
    "shared_address",
    "shfl_xor",
    "st4",
    "st4_at",
    "st_pair",
    "thread_again",
    "transpose8x8",
    "warp_sync",
]
