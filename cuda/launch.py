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
from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.backward import make_backward_keys, make_backward_queries, make_delta
from gta_cuda.decode import make_decode, make_merge, most_rows, step_keys
from gta_cuda.decode_bf16 import KEYS as KEYS_BF16
from gta_cuda.decode_bf16 import ROWS as ROWS_BF16
from gta_cuda.decode_bf16 import make_decode as make_decode_bf16
from gta_cuda.decode_bf16 import most_warps
from gta_cuda.forward import make_forward
from gta_cuda.forward_bf16 import MOST_D_K
from gta_cuda.forward_bf16 import Tile as TileBf16
from gta_cuda.forward_bf16 import make_forward as make_forward_bf16
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.tiles import SLAB, TILE, Tile
from gta_cuda.tiles_bf16 import PART as PART_BF16
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module
from gta_ref.ops.heads import sum_heads

LEAST_SPLIT_KEYS = 1024  # fewer keys are too little work to distribute


@lru_cache(maxsize=64)
def forward_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 forward."""
    arguments = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
    blocks = 2 if d_k <= SLAB else 1  # for larger widths, addresses of more slabs take registers
    key = widths_key("forward", d_k, d_v, wide, _sizes(tile))
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
    key = widths_key("forward_bf16", d_k, d_v, wide, _sizes(tile))
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


@lru_cache(maxsize=64)
def delta_kernel(d_v: int, warps: int = 4) -> Kernel:
    """The kernel of the float32 backward for delta, which the other two kernels need."""
    arguments = (FLOATS,) * 4 + (COUNT, COUNT)
    return Kernel("backward: delta", make_delta(d_v, warps), arguments, 32 * warps, key=f"delta-{d_v}-{warps}")


@lru_cache(maxsize=64)
def backward_queries_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dQ."""
    arguments = (FLOATS,) * 7 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
    key = widths_key("backward_queries", d_k, d_v, wide, _sizes(tile))
    return Kernel("backward: dQ", make_backward_queries(d_k, d_v, wide, tile), arguments, tile.threads, key=key)


@lru_cache(maxsize=64)
def backward_keys_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dK and dV."""
    arguments = (FLOATS,) * 8 + (INTS, STRIDES, NUMBER) + (COUNT,) * 7
    key = widths_key("backward_keys", d_k, d_v, wide, _sizes(tile))
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
    rows = TileBf16.of(d_k).rows if q.dtype.name == "bfloat16" else TILE.rows
    blocks = batch * n_q * -(-n_queries // rows)
    return n_keys >= LEAST_SPLIT_KEYS and 2 * blocks < arrays.multiprocessors(q)


def _sizes(tile: tuple[int, ...]) -> str:
    """The part of a kernel's key for its tile."""
    return "x".join(map(str, tile))
