"""Launching the bfloat16 backward kernels on arrays; see ``launch``."""

from __future__ import annotations

from functools import lru_cache

from gta_cuda import arrays
from gta_cuda.backward_bf16 import MOST_WIDTHS, make_backward_keys
from gta_cuda.backward_bf16 import Tile as TileKeys
from gta_cuda.backward_bf16_queries import Tile as TileQueries
from gta_cuda.backward_bf16_queries import make_backward_queries
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.launch_backward import Half, compute, compute_delta
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array

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
    d_k, d_v = q.shape[3], v.shape[3]
    strides, wide = arrays.layout(q, k, v, dz)
    tile_q = TileQueries.of(d_k, d_v) if tile_q is None else tile_q
    tile_k = TileKeys.of(d_k, d_v) if tile_k is None else tile_k
    delta = compute_delta(z, dz, dlse, lse, arrays.current_stream(q), min(tile_k.threads // 32, 4))
    threads = arrays.multiprocessors(q) * WARPS * 32
    kernel_q = backward_bf16_queries_kernel(d_k, d_v, wide, tile_q)
    kernel_k = backward_bf16_keys_kernel(d_k, d_v, wide, tile_k)
    for_queries = Half(kernel_q, tile_q.rows, tile_q.keys, 1, threads // tile_q.threads)
    for_keys = Half(kernel_k, tile_k.rows, tile_k.queries, 1, threads // tile_k.threads)
    widths = (padded(d_k), padded(d_v))
    return compute(q, k, v, lse, dz, delta, mask, scale, strides, for_queries, for_keys, widths, parts)
