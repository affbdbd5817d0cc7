"""All kernels at the widths of GTA-1B, as the engine uses them there: what is compiled and measured."""

from __future__ import annotations

from gta_cuda import launch
from gta_cuda.decode_bf16 import most_warps
from gta_cuda.forward_bf16 import Tile
from gta_cuda.kernels import Kernel

D_K, D_V, N_Q = 64, 128, 5  # one key head and one latent head: all five maps are rows of a decode


def engine_kernels(d_k: int = D_K, d_v: int = D_V, *, wide: bool = True, rows: int = N_Q) -> list[Kernel]:
    """What the engine launches for arrays of these widths; decode for `rows` rows."""
    warps = most_warps(d_k, d_v)
    return [
        launch.forward_kernel(d_k, d_v, wide),
        launch.delta_kernel(d_v),
        launch.backward_queries_kernel(d_k, d_v, wide),
        launch.backward_keys_kernel(d_k, d_v, wide),
        launch.decode_kernel(d_k, d_v, wide, launch.balanced(rows, launch.most_rows(d_k, d_v))),
        launch.merge_kernel(d_v, False),
        launch.forward_bf16_kernel(d_k, d_v, wide, Tile.of(d_k)),
        launch.decode_bf16_kernel(d_k, d_v, wide, warps, False),
        launch.decode_bf16_kernel(d_k, d_v, wide, warps, True),
        launch.merge_kernel(d_v, True),
    ]


def catalog() -> list[Kernel]:
    """The engine's kernels, and before them the ladder's first steps."""
    from gta_cuda.ladder import first_steps

    return [*first_steps(D_K, D_V), *engine_kernels()]
