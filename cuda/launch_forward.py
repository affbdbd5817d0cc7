"""Launching the forward kernels on arrays; see ``launch``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gta_cuda import arrays
from gta_cuda.forward import FORWARD_TILE, make_forward
from gta_cuda.forward_bf16 import Tile as TileBf16
from gta_cuda.forward_bf16 import make_forward as make_forward_bf16
from gta_cuda.forward_wgmma import MOST_D_K as MOST_D_K_WGMMA
from gta_cuda.forward_wgmma import PART as PART_WGMMA
from gta_cuda.forward_wgmma import Tile as TileWgmma
from gta_cuda.forward_wgmma import make_forward as make_forward_wgmma
from gta_cuda.forward_wgmma import shared_bytes
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.tiles import Tile
from gta_cuda.tiles_bf16 import PART as PART_BF16
from gta_cuda.tiles_bf16 import padded
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module

# Whether bfloat16 arrays on a GPU of capability 9.0 go to `forward_wgmma`, where it can take them.
USE_WGMMA = True
TILE_WGMMA = TileWgmma()


@lru_cache(maxsize=64)
def forward_kernel(d_k: int, d_v: int, wide: bool, tile: Tile = FORWARD_TILE) -> Kernel:
    """The kernel of the float32 forward."""
    arguments = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
    blocks = max(1, 1536 // (tile.rows * tile.groups))  # a thread with 4 rows has 168 registers then
    key = widths_key("forward", d_k, d_v, wide, tile)
    return Kernel("forward", make_forward(d_k, d_v, wide, tile), arguments, tile.threads, blocks, key=key)


def forward(q: Array, k: Array, v: Array, mask: Mask, scale: float, tile: Tile = FORWARD_TILE) -> tuple[Array, Array]:
    """Compute z (B, n_q, N_q, d_v) and lse (B, n_q, N_q) of float32 arrays with contiguous rows."""
    d_k, d_v = q.shape[3], v.shape[3]
    strides, wide = arrays.layout(q, k, v)
    kernel = forward_kernel(d_k, d_v, wide, tile)
    return _launch(kernel, tile.rows, tile.part(d_v), q, k, v, mask, scale, strides)


def _launch(
    kernel: Kernel,
    rows: int,
    part: int,
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    strides: tuple[int, ...],
) -> tuple[Array, Array]:
    """Launch a forward, of whose blocks each computes `rows` queries and `part` columns of z; return z and lse."""
    xp = array_module(q)
    (batch, n_q, n_queries, _), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    z = xp.empty((batch, n_q, n_queries, d_v), q.dtype)
    lse = xp.empty((batch, n_q, n_queries), np.float32)
    stream = arrays.current_stream(q)
    kernel.launch(
        (batch * n_q, -(-n_queries // rows), -(-d_v // part)),
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
    shared = tile.dynamic(d_k, d_v)
    return Kernel("forward_bf16", function, arguments, tile.threads, tensor_cores=True, key=key, shared=shared)


def forward_bf16(
    q: Array, k: Array, v: Array, mask: Mask, scale: float, tile: TileBf16 | None = None
) -> tuple[Array, Array]:
    """Compute the same as :func:`forward` of bfloat16 arrays with d_k up to MOST_D_K; lse is float32.

    Without a `tile`, the kernel is the one for wgmma if :func:`takes_wgmma` says so.
    """
    d_k, d_v = q.shape[3], v.shape[3]
    strides, wide = arrays.layout(q, k, v)
    if tile is None and takes_wgmma(q, wide):
        return forward_wgmma(q, k, v, mask, scale)
    tile = TileBf16.of(d_k, wide) if tile is None else tile
    kernel = forward_bf16_kernel(d_k, d_v, wide, tile)
    return _launch(kernel, tile.rows, min(PART_BF16, padded(d_v)), q, k, v, mask, scale, strides)


def takes_wgmma(q: Array, wide: bool) -> bool:
    """Whether the forward of such bfloat16 arrays is to be computed by the kernel for wgmma."""
    return USE_WGMMA and wide and q.shape[3] <= MOST_D_K_WGMMA and has_wgmma(q)


def has_wgmma(like: Array) -> bool:
    """Whether the GPU that `like` is on has the instruction; only capability 9.0 does. In the simulator, False."""
    return not isinstance(like, np.ndarray) and _capability(like.data.device_id) == "90"


@lru_cache(maxsize=16)
def _capability(device: int) -> str:
    import cupy

    found: str = cupy.cuda.Device(device).compute_capability
    return found


@lru_cache(maxsize=64)
def forward_wgmma_kernel(d_k: int, d_v: int, tile: TileWgmma) -> Kernel:
    """The kernel of the bfloat16 forward with wgmma, which compiles for sm_90a only."""
    arguments = (HALVES,) * 4 + (FLOATS, INTS, STRIDES, NUMBER) + (COUNT,) * 5
    function, shared = make_forward_wgmma(d_k, d_v, tile), shared_bytes(d_k, d_v, tile)
    key = widths_key("forward_wgmma", d_k, d_v, True, tile)
    blocks = tile.blocks(d_k)
    return Kernel(
        "forward_wgmma", function, arguments, tile.threads, blocks, True, key=key, shared=shared, only=(9, 0, "a")
    )


def forward_wgmma(
    q: Array, k: Array, v: Array, mask: Mask, scale: float, tile: TileWgmma = TILE_WGMMA
) -> tuple[Array, Array]:
    """Compute the same as :func:`forward_bf16`, on a GPU with wgmma or in the simulator.

    Raises
    ------
    ValueError
        If d_k is above ``forward_wgmma.MOST_D_K``, or rows do not begin at multiples of 16 bytes and have lengths that
        are multiples of 16 bytes.
    """
    d_k, d_v = q.shape[3], v.shape[3]
    strides, wide = arrays.layout(q, k, v)
    if d_k > MOST_D_K_WGMMA or not wide:
        raise ValueError(
            f"d_k={d_k}, rows that {'are' if wide else 'are not'} at multiples of 16 bytes; forward_wgmma takes d_k up "
            f"to {MOST_D_K_WGMMA} and rows at multiples of 16 bytes"
        )
    kernel = forward_wgmma_kernel(d_k, d_v, tile)
    return _launch(kernel, tile.rows, PART_WGMMA, q, k, v, mask, scale, strides)
