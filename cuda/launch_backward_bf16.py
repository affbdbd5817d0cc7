"""Launching the bfloat16 backward kernels on arrays; see ``launch``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.backward_bf16 import MOST_WIDTHS, make_backward_keys
from gta_cuda.backward_bf16 import Tile as TileKeys
from gta_cuda.backward_bf16_queries import Tile as TileQueries
from gta_cuda.backward_bf16_queries import make_backward_queries
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.launch_backward import Sizes, add_parts, choose_parts, compute_delta
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module

WARPS = 8  # that a multiprocessor has at once, because each thread takes up to 255 registers


@lru_cache(maxsize=64)
def backward_bf16_queries_kernel(d_k: int, d_v: int, wide: bool, tile: TileQueries) -> Kernel:
    """The kernel of the bfloat16 backward for the parts of dQ, which are float32."""
    arguments = (HALVES,) * 4 + (FLOATS,) * 3 + (INTS, STRIDES, NUMBER) + (COUNT,) * 6
    function = make_backward_queries(d_k, d_v, wide, tile)
    key = widths_key("backward_bf16_queries", d_k, d_v, wide, tile)
    return Kernel("backward_bf16: dQ", function, arguments, tile.threads, tensor_cores=True, key=key)


@lru_cache(maxsize=64)
def backward_bf16_keys_kernel(d_k: int, d_v: int, wide: bool, tile: TileKeys) -> Kernel:
    """The kernel of the bfloat16 backward for the parts of dK and dV, which are float32."""
    arguments = (HALVES,) * 4 + (FLOATS,) * 4 + (INTS, STRIDES, NUMBER) + (COUNT,) * 8
    function = make_backward_keys(d_k, d_v, wide, tile)
    key = widths_key("backward_bf16_keys", d_k, d_v, wide, tile)
    shared = tile.dynamic(d_k, d_v)
    return Kernel("backward_bf16: dK, dV", function, arguments, tile.threads, tensor_cores=True, key=key, shared=shared)


def takes_bf16_backward(d_k: int, d_v: int) -> bool:
    """Whether the tensor cores can process a backward of these widths; if not, the inputs are widened to float32."""
    return padded(d_k) + padded(d_v) <= MOST_WIDTHS


def backward_bf16(
    q: Array,
    k: Array,
    v: Array,
    z: Array,
    lse: Array,
    dz: Array,
    dlse: Array | None,
    mask: Mask,
    scale: float,
    tile_q: TileQueries | None = None,
    tile_k: TileKeys | None = None,
    parts: tuple[int, int] | None = None,
) -> tuple[Array, Array, Array]:
    """Compute the same as ``launch_backward.backward`` of bfloat16 arrays; lse and dlse are float32."""
    xp = array_module(q)
    sizes = Sizes.of(q, k, v)
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    strides, wide = arrays.layout(q, k, v, dz)
    stream = arrays.current_stream(q)
    tile_q = TileQueries.of(d_k, d_v) if tile_q is None else tile_q
    tile_k = TileKeys.of(d_k, d_v) if tile_k is None else tile_k
    delta = compute_delta(z, dz, dlse, lse, stream, min(tile_k.threads // 32, 4))
    on_device = arrays.bounds(mask, batch, n_queries, n_keys, q, stream)
    inputs = [arrays.pointer(x) for x in (q, k, v, dz, lse, delta)]
    heads = (n_q, n_q // n_k, n_q // n_v)
    tiles_q, tiles_k = -(-n_queries // tile_q.rows), -(-n_keys // tile_k.rows)
    if parts is None:
        warps = arrays.multiprocessors(q) * WARPS
        parts = (
            choose_parts(batch * n_q * tiles_q, -(-n_keys // tile_q.keys), warps * 32 // tile_q.threads),
            choose_parts(
                sizes.runs * tiles_k, sizes.maps * -(-n_queries // tile_k.queries), warps * 32 // tile_k.threads
            ),
        )
    for_q, for_k = parts
    parts_k = xp.empty((sizes.runs * for_k, n_keys, padded(d_k)), np.float32)
    parts_v = xp.empty((sizes.runs * for_k, n_keys, padded(d_v)), np.float32)
    backward_bf16_keys_kernel(d_k, d_v, wide, tile_k).launch(
        (sizes.runs * for_k, tiles_k, 1),
        stream,
        *inputs,
        *map(arrays.pointer, (parts_k, parts_v, on_device)),
        strides[:9],  # those of q, k and v; dz is contiguous
        scale,
        *heads,
        sizes.maps,
        for_k,
        n_queries,
        n_keys,
        mask.causal,
    )
    parts_q = xp.empty((batch * n_q * for_q, n_queries, padded(d_k)), np.float32)
    backward_bf16_queries_kernel(d_k, d_v, wide, tile_q).launch(
        (batch * n_q * for_q, tiles_q, 1),
        stream,
        *inputs,
        *map(arrays.pointer, (parts_q, on_device)),
        strides[:9],
        scale,
        *heads,
        for_q,
        n_queries,
        mask.causal,
    )
    return add_parts((parts_q, parts_k, parts_v), sizes, q.dtype, stream)
