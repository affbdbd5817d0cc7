"""Launching the backward kernels on arrays; see ``launch``."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gta_cuda import arrays
from gta_cuda.backward import make_backward_keys, make_backward_queries, make_delta
from gta_cuda.backward_parts import make_sum
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.tiles import TILE, Tile
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module

MOST_PARTS = 64  # blocks that share the steps of a tile (``backward_parts``)
LEAST_STEPS = 4  # of such a block


@lru_cache(maxsize=64)
def delta_kernel(d_v: int, warps: int = 4, from_bf16: bool = False) -> Kernel:
    """The kernel of the backward for delta, which the other two kernels need."""
    arguments = (HALVES if from_bf16 else FLOATS,) * 2 + (FLOATS, FLOATS, COUNT, COUNT)
    name, key = ("backward_bf16: delta", "delta_bf16") if from_bf16 else ("backward: delta", "delta")
    return Kernel(name, make_delta(d_v, warps, from_bf16), arguments, 32 * warps, key=f"{key}-{d_v}-{warps}")


@lru_cache(maxsize=64)
def sum_kernel(d_k: int, d_v: int, to_bf16: bool, threads: int = 128) -> Kernel:
    """The kernel that adds the parts of dQ, dK and dV; those of the bfloat16 backward have padded rows."""
    arguments = (FLOATS,) * 3 + (HALVES if to_bf16 else FLOATS,) * 3 + (COUNT,) * 9
    name, key = ("backward_bf16: sum", "sum_bf16") if to_bf16 else ("backward: sum", "sum")
    widths = (d_k, d_k, d_v)
    pitches = (padded(d_k), padded(d_k), padded(d_v)) if to_bf16 else widths
    function = make_sum(widths, pitches, to_bf16, threads)
    return Kernel(name, function, arguments, threads, key=f"{key}-{d_k}-{d_v}-{threads}")


@lru_cache(maxsize=64)
def backward_queries_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dQ."""
    arguments = (FLOATS,) * 7 + (INTS, STRIDES, NUMBER) + (COUNT,) * 6
    key = widths_key("backward_queries", d_k, d_v, wide, tile)
    return Kernel("backward: dQ", make_backward_queries(d_k, d_v, wide, tile), arguments, tile.threads, key=key)


@lru_cache(maxsize=64)
def backward_keys_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = TILE) -> Kernel:
    """The kernel of the float32 backward for dK and dV."""
    arguments = (FLOATS,) * 8 + (INTS, STRIDES, NUMBER) + (COUNT,) * 8
    key = widths_key("backward_keys", d_k, d_v, wide, tile)
    return Kernel("backward: dK, dV", make_backward_keys(d_k, d_v, wide, tile), arguments, tile.threads, key=key)


class Sizes(NamedTuple):
    """Sizes of the arrays of a backward. A run is `maps` maps that share both heads."""

    batch: int
    n_q: int
    n_k: int
    n_v: int
    n_queries: int
    n_keys: int
    d_k: int
    d_v: int

    @classmethod
    def of(cls, q: Array, k: Array, v: Array) -> Sizes:
        """Those of these arrays."""
        (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
        return cls(batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v)

    @property
    def maps(self) -> int:
        """Maps per run."""
        return math.gcd(self.n_q // self.n_k, self.n_q // self.n_v)

    @property
    def runs(self) -> int:
        """Runs of all sequences together."""
        return self.batch * self.n_q // self.maps


def choose_parts(blocks: int, steps: int, places: int) -> int:
    """How many blocks share a tile's steps: enough for two blocks per place, if each has LEAST_STEPS steps.

    Under a causal mask, the tiles have different numbers of steps, so that a GPU is busy to the end only if there are
    more blocks than it has places. At most MOST_PARTS.
    """
    wanted = -(-2 * places // max(blocks, 1))
    return max(1, min(wanted, steps // LEAST_STEPS, MOST_PARTS))


def compute_delta(z: Array, dz: Array, dlse: Array | None, like: Array, stream: int, warps: int) -> Array:
    """Compute delta, float32 and shaped as lse, of contiguous z and dz."""
    delta = array_module(z).empty_like(like)
    kernel = delta_kernel(z.shape[3], warps, z.dtype.name == "bfloat16")
    kernel.launch(
        (-(-like.size * 32 // kernel.threads), 1, 1),
        stream,
        *map(arrays.pointer, (z, dz, delta if dlse is None else dlse, delta)),
        like.size,
        dlse is not None,
    )
    return delta


def add_parts(parts: tuple[Array, Array, Array], sizes: Sizes, dtype: Any, stream: int) -> tuple[Array, Array, Array]:
    """Add the parts of dQ, dK and dV, (B·heads·count, rows, columns) each, in their order.

    The results have this dtype.
    """
    xp = array_module(parts[0])
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    results, heads, counts = [], [], []
    for x, shape in zip(parts, shapes, strict=True):
        all_heads = shape[0] * shape[1]
        whole = x.dtype == dtype and x.shape[0] == all_heads  # there is nothing to add
        results.append(x.reshape(shape) if whole else xp.empty(shape, dtype))
        heads.append(0 if whole else all_heads)
        counts.append(x.shape[0] // all_heads)
    if any(heads):
        kernel = sum_kernel(d_k, d_v, parts[0].dtype != dtype)
        quads = max(n * -(-d // 4) for n, d in ((n_queries, d_k), (n_keys, d_k), (n_keys, d_v)))
        tiles = -(-quads // kernel.threads)
        kernel.launch(
            (max(heads) * tiles, 1, 3),
            stream,
            *map(arrays.pointer, (*parts, *results)),
            n_queries,
            n_keys,
            tiles,
            *heads,
            *counts,
        )
    dq, dk, dv = results
    return dq, dk, dv


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
    parts: tuple[int, int] | None = None,
) -> tuple[Array, Array, Array]:
    """Compute dq, dk and dv of float32 arrays: z, lse, dz and dlse contiguous, the others with contiguous rows.

    parts: numbers of blocks that share the keys of the same queries, and the queries of the same keys; by default they
    depend on the size of the GPU.
    """
    d_k, d_v = q.shape[3], v.shape[3]
    strides, wide = arrays.layout(q, k, v, dz)
    delta = compute_delta(z, dz, dlse, lse, arrays.current_stream(q), 4 if tile == TILE else 1)
    columns_q = -(-d_k // tile.part(d_k))
    places = arrays.multiprocessors(q)
    for_queries = Half(backward_queries_kernel(d_k, d_v, wide, tile), tile.rows, tile.columns, columns_q, places)
    columns_k = max(columns_q, -(-d_v // tile.part(d_v)))
    for_keys = Half(backward_keys_kernel(d_k, d_v, wide, tile), tile.rows, tile.columns, columns_k, places)
    return compute(q, k, v, lse, dz, delta, mask, scale, strides, for_queries, for_keys, (d_k, d_v), parts)


class Half(NamedTuple):
    """One of the two kernels of a backward, that for dQ or that for dK and dV, and how its blocks share the work."""

    kernel: Kernel
    rows: int  # of a block: queries, or keys
    step: int  # of the others that a block processes at a time
    columns: int  # blocks that share the columns of the same rows
    places: int  # blocks that the GPU has at once


def compute(
    q: Array,
    k: Array,
    v: Array,
    lse: Array,
    dz: Array,
    delta: Array,
    mask: Mask,
    scale: float,
    strides: tuple[int, ...],
    for_queries: Half,
    for_keys: Half,
    widths: tuple[int, int],
    parts: tuple[int, int] | None,
) -> tuple[Array, Array, Array]:
    """Compute dq, dk and dv with two kernels; see :func:`backward`.

    strides: those of q, k, v and dz, which is contiguous. widths: columns of the parts of dQ and dK, and of dV.
    """
    xp = array_module(q)
    sizes = Sizes.of(q, k, v)
    batch, n_q, n_k, n_v, n_queries, n_keys, _, _ = sizes
    stream = arrays.current_stream(q)
    on_device = arrays.bounds(mask, batch, n_queries, n_keys, q, stream)
    inputs = [arrays.pointer(x) for x in (q, k, v, dz, lse, delta)]
    heads = (n_q, n_q // n_k, n_q // n_v)
    tiles_q, tiles_k = -(-n_queries // for_queries.rows), -(-n_keys // for_keys.rows)
    if parts is None:
        blocks_q = batch * n_q * tiles_q * for_queries.columns
        blocks_k = sizes.runs * tiles_k * for_keys.columns
        parts = (
            choose_parts(blocks_q, -(-n_keys // for_queries.step), for_queries.places),
            choose_parts(blocks_k, sizes.maps * -(-n_queries // for_keys.step), for_keys.places),
        )
    count_q, count_k = parts
    parts_q = xp.empty((batch * n_q * count_q, n_queries, widths[0]), np.float32)
    for_queries.kernel.launch(
        (batch * n_q * count_q, tiles_q, for_queries.columns),
        stream,
        *inputs,
        *map(arrays.pointer, (parts_q, on_device)),
        strides[:9],
        scale,
        *heads,
        count_q,
        n_queries,
        mask.causal,
    )
    parts_k, parts_v = (xp.empty((sizes.runs * count_k, n_keys, width), np.float32) for width in widths)
    for_keys.kernel.launch(
        (sizes.runs * count_k, tiles_k, for_keys.columns),
        stream,
        *inputs,
        *map(arrays.pointer, (parts_k, parts_v, on_device)),
        strides[:9],
        scale,
        *heads,
        sizes.maps,
        count_k,
        n_queries,
        n_keys,
        mask.causal,
    )
    return add_parts((parts_q, parts_k, parts_v), sizes, q.dtype, stream)
