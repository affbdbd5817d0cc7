"""Launching the decode kernels on arrays; see ``launch``."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.decode import make_decode, make_merge, most_rows, step_keys
from gta_cuda.decode_bf16 import KEYS as KEYS_BF16
from gta_cuda.decode_bf16 import ROWS as ROWS_BF16
from gta_cuda.decode_bf16 import make_decode as make_decode_bf16
from gta_cuda.decode_bf16 import most_warps
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module


@lru_cache(maxsize=64)
def decode_kernel(d_k: int, d_v: int, wide: bool, rows: int, warps: int = 4) -> Kernel:
    """The kernel of the float32 decode."""
    arguments = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 7
    key = widths_key("decode", d_k, d_v, wide, f"{rows}x{warps}")
    return Kernel("decode", make_decode(d_k, d_v, wide, rows, warps), arguments, 32 * warps, 2, key=key)


@lru_cache(maxsize=64)
def merge_kernel(d_v: int, to_bf16: bool, threads: int = 128) -> Kernel:
    """The kernel that combines the splits of a decode."""
    z = HALVES if to_bf16 else FLOATS
    return Kernel(
        "merge to bf16" if to_bf16 else "merge",
        make_merge(d_v, to_bf16, threads),
        (FLOATS, FLOATS, z, FLOATS, COUNT, COUNT),
        threads,
        key=f"{'merge_bf16' if to_bf16 else 'merge'}-{d_v}-{threads}",
    )


@lru_cache(maxsize=64)
def decode_bf16_kernel(d_k: int, d_v: int, wide: bool, warps: int, to_bf16: bool) -> Kernel:
    """The kernel of the bfloat16 decode; its sums, and the z of a split, are float32."""
    arguments = (HALVES,) * 3 + (HALVES if to_bf16 else FLOATS, FLOATS, INTS, STRIDES, NUMBER) + (COUNT,) * 7
    function = make_decode_bf16(d_k, d_v, wide, warps, to_bf16)
    name = "decode_bf16 to z" if to_bf16 else "decode_bf16"
    key = widths_key("decode_bf16", d_k, d_v, wide, warps, *(["z"] if to_bf16 else []))
    return Kernel(name, function, arguments, 32 * warps, 2, tensor_cores=True, key=key)


def decode(
    q: Array, k: Array, v: Array, mask: Mask, scale: float, splits: int | None = None, warps: int = 4
) -> tuple[Array, Array]:
    """Compute the same as :func:`forward` and :func:`forward_bf16`, for few queries.

    splits: number of blocks that share a sequence's keys; by default it depends on the size of the GPU.
    warps: most warps per block; default 4.
    """
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    maps_k, maps_v = n_q // n_k, n_q // n_v
    maps = math.gcd(maps_k, maps_v)
    strides, wide = arrays.layout(q, k, v)
    in_bf16 = q.dtype.name == "bfloat16"
    if in_bf16:
        rows, warps = ROWS_BF16, min(warps, most_warps(d_k, d_v))
        step = warps * KEYS_BF16
    else:
        rows = balanced(maps * n_queries, most_rows(d_k, d_v))
        step = warps * step_keys(d_k, d_v)
    blocks = batch * (n_q // maps) * -(-maps * n_queries // rows)
    splits = choose_splits(blocks, n_keys, step, q) if splits is None else splits
    n_rows = batch * n_q * n_queries
    z = xp.empty((batch, n_q, n_queries, d_v), q.dtype)
    lse = xp.empty((batch, n_q, n_queries), np.float32)
    z_parts, lse_parts = z, lse
    if splits > 1:
        z_parts, lse_parts = xp.empty((splits, n_rows, d_v), np.float32), xp.empty((splits, n_rows), np.float32)
    if in_bf16:
        kernel = decode_bf16_kernel(d_k, d_v, wide, warps, splits == 1)
    else:
        kernel = decode_kernel(d_k, d_v, wide, rows, warps)
    stream = arrays.current_stream(q)
    kernel.launch(
        (batch * (n_q // maps), -(-maps * n_queries // rows), splits),
        stream,
        *map(arrays.pointer, (q, k, v, z_parts, lse_parts, arrays.bounds(mask, batch, n_queries, n_keys, q, stream))),
        strides,
        scale,
        n_q,
        maps_k,
        maps_v,
        maps,
        n_queries,
        mask.causal,
        n_rows,
    )
    if splits > 1:
        merge(z_parts, lse_parts, z, lse, stream, 32 * warps)
    return z, lse


def merge(z_parts: Array, lse_parts: Array, z: Array, lse: Array, stream: int, threads: int) -> None:
    """Combine z_parts (splits, rows, d_v) and lse_parts (splits, rows) and write the results to z and lse."""
    splits, n_rows, d_v = z_parts.shape
    merge_kernel(d_v, z.dtype.name == "bfloat16", threads).launch(
        (n_rows, 1, 1),
        stream,
        *map(arrays.pointer, (z_parts, lse_parts, z, lse)),
        n_rows,
        splits,
    )


def balanced(total: int, most: int) -> int:
    """Rows per block such that as few blocks as possible share them evenly: 10 rows with at most 8 give 5 and 5."""
    return -(-total // -(-total // most))


def choose_splits(blocks: int, n_keys: int, step: int, like: Array) -> int:
    """Enough splits to give each multiprocessor two blocks, if every split has at least four steps; at most 128."""
    return max(1, min(-(-2 * arrays.multiprocessors(like) // max(blocks, 1)), n_keys // (4 * step), 128))
