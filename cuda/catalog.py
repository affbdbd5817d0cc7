"""All kernels at the widths of GTA-1B, as the engine launches them: the list that ``resources`` compiles."""

from __future__ import annotations

from gta_cuda import launch
from gta_cuda.backward_bf16 import Tile as TileKeys
from gta_cuda.backward_bf16_queries import Tile as TileQueries
from gta_cuda.decode_bf16 import most_warps
from gta_cuda.forward_bf16 import Tile
from gta_cuda.kernels import Kernel
from gta_cuda.launch_forward import TILE_WGMMA

D_K, D_V, N_Q = 64, 128, 5  # with one key head and one latent head, a decode has all five maps as its rows


def engine_kernels(d_k: int = D_K, d_v: int = D_V, *, wide: bool = True, rows: int = N_Q) -> list[Kernel]:
    """The kernels that the engine launches for arrays of these widths; the decode kernel is made for `rows` rows."""
    warps = most_warps(d_k, d_v)
    return [
        launch.forward_kernel(d_k, d_v, wide),
        launch.delta_kernel(d_v),
        launch.backward_queries_kernel(d_k, d_v, wide),
        launch.backward_keys_kernel(d_k, d_v, wide),
        launch.sum_kernel(d_k, d_v, False),
        launch.decode_kernel(d_k, d_v, wide, launch.balanced(rows, launch.most_rows(d_k, d_v))),
        launch.merge_kernel(d_v, False),
        launch.forward_bf16_kernel(d_k, d_v, wide, Tile.of(d_k, wide)),
        launch.decode_bf16_kernel(d_k, d_v, wide, warps, False),
        launch.decode_bf16_kernel(d_k, d_v, wide, warps, True),
        launch.merge_kernel(d_v, True),
        launch.delta_kernel(d_v, from_bf16=True),
        launch.backward_bf16_queries_kernel(d_k, d_v, wide, TileQueries.of(d_k, d_v)),
        launch.backward_bf16_keys_kernel(d_k, d_v, wide, TileKeys.of(d_k, d_v)),
        launch.sum_kernel(d_k, d_v, True),
    ]


def catalog() -> list[Kernel]:
    """The kernels of the ladders that the engine does not use, the engine's, and the one for GPUs with wgmma."""
    from gta_cuda.ladder_steps import kernels

    return [*kernels(D_K, D_V, N_Q), *engine_kernels(), launch.forward_wgmma_kernel(D_K, D_V, TILE_WGMMA)]
