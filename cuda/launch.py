"""Launching kernels on arrays: which kernel is used, with which grid, and where the results go. The engine calls this.

The functions take CuPy arrays, or NumPy arrays and smaller tiles in the simulator. They never write to the arrays that
a caller passes. Each kernel is made once per combination of widths.

A call can be captured into a CUDA graph after a warm-up: the same call, with the same sizes, mask and dtype, has to run
once on the same stream before the capture. That call compiles or loads the kernels and copies the mask's bounds to the
GPU; later calls only allocate their results and launch kernels. A graph keeps addresses, not arrays. So the capture
needs a memory pool of its own, ``with cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):``, and this pool, the
inputs and the results have to be kept for as long as the graph is replayed. The bounds are kept until MOST_BOUNDS
others have been made (``arrays.bounds``).
"""

from __future__ import annotations

import math

from gta_cuda import arrays
from gta_cuda.decode import most_rows
from gta_cuda.decode_bf16 import most_warps
from gta_cuda.forward import FORWARD_TILE
from gta_cuda.forward_bf16 import MOST_D_K
from gta_cuda.forward_bf16 import Tile as TileBf16
from gta_cuda.launch_backward import (
    backward,
    backward_keys_kernel,
    backward_queries_kernel,
    choose_parts,
    delta_kernel,
    sum_kernel,
)
from gta_cuda.launch_backward_bf16 import (
    backward_bf16,
    backward_bf16_keys_kernel,
    backward_bf16_queries_kernel,
    takes_bf16_backward,
)
from gta_cuda.launch_decode import (
    balanced,
    choose_splits,
    decode,
    decode_bf16_kernel,
    decode_kernel,
    merge_kernel,
    prepare,
    prepared,
    remember,
    signature,
)
from gta_cuda.launch_forward import (
    forward,
    forward_bf16,
    forward_bf16_kernel,
    forward_kernel,
    forward_wgmma,
    forward_wgmma_kernel,
)
from gta_ref.ops.arrays import Array

__all__ = [
    "LEAST_SPLIT_KEYS",
    "backward",
    "backward_bf16",
    "backward_bf16_keys_kernel",
    "backward_bf16_queries_kernel",
    "backward_keys_kernel",
    "backward_queries_kernel",
    "balanced",
    "choose_parts",
    "choose_splits",
    "decode",
    "decode_bf16_kernel",
    "decode_kernel",
    "delta_kernel",
    "forward",
    "forward_bf16",
    "forward_bf16_kernel",
    "forward_kernel",
    "forward_wgmma",
    "forward_wgmma_kernel",
    "leaves_idle",
    "merge_kernel",
    "most_rows",
    "prepare",
    "prepared",
    "remember",
    "signature",
    "sum_kernel",
    "takes_bf16",
    "takes_bf16_backward",
    "takes_decode",
]

LEAST_SPLIT_KEYS = 1024  # fewer keys are too little work to distribute


def takes_bf16(d_k: int) -> bool:
    """Whether the tensor cores can process bfloat16 keys of width d_k; if not, the inputs are widened to float32."""
    return d_k <= MOST_D_K


def takes_decode(q: Array, k: Array, v: Array, most: int) -> bool:
    """Whether the decode kernel supports these widths and at most `most` rows read the same key."""
    (_, n_q, n_queries, d_k), d_v = q.shape, v.shape[3]
    maps = math.gcd(n_q // k.shape[1], n_q // v.shape[1])
    fits = most_warps(d_k, d_v) if q.dtype.name == "bfloat16" else most_rows(d_k, d_v)
    return fits > 0 and maps * n_queries <= most


def leaves_idle(q: Array, k: Array) -> bool:
    """Whether the forward's blocks are fewer than half of the multiprocessors while the keys are many enough to cut."""
    (batch, n_q, n_queries, d_k), n_keys = q.shape, k.shape[2]
    rows = TileBf16.of(d_k).rows if q.dtype.name == "bfloat16" else FORWARD_TILE.rows
    blocks = batch * n_q * -(-n_queries // rows)
    return n_keys >= LEAST_SPLIT_KEYS and 2 * blocks < arrays.multiprocessors(q)
