"""Launching the backward kernels on arrays; see ``launch``."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.backward import make_backward_keys, make_backward_queries, make_delta
from gta_cuda.kernels import COUNT, FLOATS, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.tiles import TILE, Tile
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module
from gta_ref.ops.heads import sum_heads


@lru_cache(maxsize=64)
def delta_kernel(d_v: int, warps: int = 4) -> Kernel:
    """The kernel of the float32 backward for delta, which the other two kernels need."""
    arguments = (FLOATS,) * 4 + (COUNT, COUNT)
    return Kernel("backward: delta", make_delta(d_v, warps), arguments, 32 * warps, key=f"delta-{d_v}-{warps}")


@lru_cache(maxsize=64)
def backward_queries_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dQ."""
    arguments = (FLOATS,) * 7 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
    key = widths_key("backward_queries", d_k, d_v, wide, tile)
    return Kernel("backward: dQ", make_backward_queries(d_k, d_v, wide, tile), arguments, tile.threads, key=key)


@lru_cache(maxsize=64)
def backward_keys_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dK and dV."""
    arguments = (FLOATS,) * 8 + (INTS, STRIDES, NUMBER) + (COUNT,) * 7
    key = widths_key("backward_keys", d_k, d_v, wide, tile)
    return Kernel("backward: dK, dV", make_backward_keys(d_k, d_v, wide, tile), arguments, tile.threads, key=key)


def backward(
    q: Array,
    k: Array,
    v: Array,
    z: Array,
    lse: Array,
    dz: Array,
    dlse: Array | None,
    mask: Mask,
    scale: float,
    tile: Tile = TILE,
) -> tuple[Array, Array, Array]:
    """Compute dq, dk and dv of float32 arrays: z, lse, dz and dlse contiguous, the others with contiguous rows."""
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    maps_k, maps_v = n_q // n_k, n_q // n_v
    maps = math.gcd(maps_k, maps_v)  # per run; the maps of a run share both heads
    strides, wide = arrays.layout(q, k, v, dz)
    stream = arrays.current_stream(q)
    on_device = arrays.pointer(arrays.bounds(mask, batch, n_queries, n_keys, q, stream))
    common = (on_device, strides[:9], scale, n_q, maps_k, maps_v)  # those of q, k and v; dz is contiguous

    n_rows = batch * n_q * n_queries
    delta = xp.empty_like(lse)
    kernel = delta_kernel(d_v, 4 if tile == TILE else 1)
    kernel.launch(
        (-(-n_rows * 32 // kernel.threads), 1, 1),
        stream,
        *map(arrays.pointer, (z, dz, delta if dlse is None else dlse, delta)),
        n_rows,
        dlse is not None,
    )
    inputs = [arrays.pointer(x) for x in (q, k, v, dz, lse, delta)]
    dq = xp.empty((batch, n_q, n_queries, d_k), np.float32)
    backward_queries_kernel(d_k, d_v, wide, tile).launch(
        (batch * n_q, -(-n_queries // tile.rows), -(-d_k // tile.part(d_k))),
        stream,
        *inputs,
        arrays.pointer(dq),
        *common,
        n_queries,
        mask.causal,
    )
    runs = n_q // maps
    dk = xp.empty((batch, runs, n_keys, d_k), np.float32)
    dv = xp.empty((batch, runs, n_keys, d_v), np.float32)
    backward_keys_kernel(d_k, d_v, wide, tile).launch(
        (batch * runs, -(-n_keys // tile.rows), max(-(-d_k // tile.part(d_k)), -(-d_v // tile.part(d_v)))),
        stream,
        *inputs,
        arrays.pointer(dk),
        arrays.pointer(dv),
        *common,
        maps,
        n_queries,
        n_keys,
        mask.causal,
    )
    return dq, dk if runs == n_k else sum_heads(dk, n_k), dv if runs == n_v else sum_heads(dv, n_v)
