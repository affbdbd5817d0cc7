"""Launching the forward kernels on arrays; see ``launch``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.forward import make_forward
from gta_cuda.forward_bf16 import Tile as TileBf16
from gta_cuda.forward_bf16 import make_forward as make_forward_bf16
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.tiles import SLAB, TILE, Tile
from gta_cuda.tiles_bf16 import PART as PART_BF16
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module


@lru_cache(maxsize=64)
def forward_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 forward."""
    arguments = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
    blocks = 2 if d_k <= SLAB else 1  # for larger widths, addresses of more slabs take registers
    key = widths_key("forward", d_k, d_v, wide, tile)
    return Kernel("forward", make_forward(d_k, d_v, wide, tile), arguments, tile.threads, blocks, key=key)


def forward(q: Array, k: Array, v: Array, mask: Mask, scale: float, tile: Tile = TILE) -> tuple[Array, Array]:
    """Compute z (B, n_q, N_q, d_v) and lse (B, n_q, N_q) of float32 arrays with contiguous rows."""
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    z = xp.empty((batch, n_q, n_queries, d_v), np.float32)
    lse = xp.empty((batch, n_q, n_queries), np.float32)
    strides, wide = arrays.layout(q, k, v)
    stream = arrays.current_stream(q)
    forward_kernel(d_k, d_v, wide, tile).launch(
        (batch * n_q, -(-n_queries // tile.rows), -(-d_v // tile.part(d_v))),
        stream,
        *map(arrays.pointer, (q, k, v, z, lse, arrays.bounds(mask, batch, n_queries, n_keys, q, stream))),
        strides,
        scale,
        n_q,
        n_q // n_k,
        n_q // n_v,
        n_queries,
        mask.causal,
    )
    return z, lse


@lru_cache(maxsize=64)
def forward_bf16_kernel(d_k: int, d_v: int, wide: bool, tile: TileBf16) -> Kernel:
    """The kernel of the bfloat16 forward."""
    arguments = (HALVES,) * 4 + (FLOATS, INTS, STRIDES, NUMBER) + (COUNT,) * 5
    function = make_forward_bf16(d_k, d_v, wide, tile)
    key = widths_key("forward_bf16", d_k, d_v, wide, tile)
    return Kernel("forward_bf16", function, arguments, tile.threads, tensor_cores=True, key=key)


def forward_bf16(
    q: Array, k: Array, v: Array, mask: Mask, scale: float, tile: TileBf16 | None = None
) -> tuple[Array, Array]:
    """Compute the same as :func:`forward` of bfloat16 arrays with d_k up to MOST_D_K; lse is float32."""
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    tile = TileBf16.of(d_k) if tile is None else tile
    z = xp.empty((batch, n_q, n_queries, d_v), q.dtype)
    lse = xp.empty((batch, n_q, n_queries), np.float32)
    strides, wide = arrays.layout(q, k, v)
    stream = arrays.current_stream(q)
    forward_bf16_kernel(d_k, d_v, wide, tile).launch(
        (batch * n_q, -(-n_queries // tile.rows), -(-d_v // min(PART_BF16, padded(d_v)))),
        stream,
        *map(arrays.pointer, (q, k, v, z, lse, arrays.bounds(mask, batch, n_queries, n_keys, q, stream))),
        strides,
        scale,
        n_q,
        n_q // n_k,
        n_q // n_v,
        n_queries,
        mask.causal,
    )
    return z, lse
