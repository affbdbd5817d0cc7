"""What the kernels use beyond Numba's own language: the instructions, or their twins in the simulator.

Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``) runs a kernel as Python threads. It has no shuffles and no tensor
cores, so ``emulated`` writes them out in Python; on a GPU, and when a kernel is compiled, ``ptx`` emits them.
The kernels import from here and do not know the difference.

Both need numba-cuda: what Numba itself has under the name ``numba.cuda`` is older and lacks the pointers' types.
"""

from __future__ import annotations

import os

from gta_cuda.needs import missing

if (reason := missing("numba_cuda")) is not None:
    raise ModuleNotFoundError(reason, name="numba_cuda")

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

# of shared arrays, in bytes; without it an array has the alignment of its elements, and a load of 16 bytes may fail
ALIGNMENT = None if SIMULATED else 16

if SIMULATED:
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
        ldmatrix4_t,
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
        ldmatrix4_t,
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

__all__ = [
    "ALIGNMENT",
    "SIMULATED",
    "bf16_bits",
    "bits_float",
    "cp_async16",
    "cp_async_commit",
    "cp_async_wait",
    "div",
    "exp2",
    "float_bits",
    "inverse",
    "ld4",
    "ldmatrix4",
    "ldmatrix4_t",
    "log2",
    "mma_bf16",
    "pack_bf16",
    "pair",
    "shfl_xor",
    "st4",
    "st_pair",
    "transpose8x8",
    "warp_sync",
]
