"""The backward kernel: it recomputes the map tile by tile, with five products per tile.

    S = Q Kᵀ      P = 2^(c·S − m) / l      dP = dZ Vᵀ      dS = P ⊙ (dP − δ)      δ = rowsum(dZ ⊙ Z) − dlse
    dV += Pᵀ dZ          dQ += scale · dS K          dK += scale · dSᵀ Q

rowsum(dZ ⊙ Z) is Σ_j P_j dP_j, the sum in the softmax's derivative, because Σ_j P_j dZ·V_j = dZ·Z. The maps of a block
are rows of one matrix, so the sums over the maps that share a key or value head are part of the products.

An item is a query tile with all its keys. Each dQ belongs to one item; dK and dV are summed over items.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from numba import types

from gta_ref.core.cpu.compiling import FLAGS, inlined
from gta_ref.core.cpu.forward import N, T
from gta_ref.core.cpu.llvm import gemm
from gta_ref.core.cpu.plan import Sizes
from gta_ref.core.cpu.rows import row_scores
from gta_ref.core.cpu.tile import LINE, carve, gradient_tile, load_maps, load_rows, store_maps


def workspace_size(sizes: Sizes, d_k: int, d_v: int) -> int:
    """Scratch memory of a worker's backward, in numbers: Q, dQ, dZ, S, dP, three per row, and a tile of K and of V."""
    return sizes.rows * (2 * d_k + d_v + 2 * sizes.keys + 3) + sizes.keys * (d_k + d_v) + 8 * LINE


def backward_signature(storage: Any, real: Any) -> Any:
    """The backward kernel's Numba signature for inputs of type `storage` that are computed in `real`."""
    x = types.Array(storage, 4, "A", readonly=True)
    whole, flag = types.Array(types.int64, 1, "C", readonly=True), types.boolean
    items = types.Array(types.int64, 2, "C", readonly=True)
    rows, outputs = real[:, :, ::1], real[:, :, :, ::1]
    dlse = types.Array(real, 3, "A", readonly=True)
    sizes = types.UniTuple(types.int64, len(Sizes._fields))
    return types.void(
        *(items, whole, x, x, x, whole, sizes, flag, flag, real, real, types.intp),
        *(x, dlse, outputs, rows, rows, outputs, outputs, outputs, real[::1]),
    )


def backward(
    items, mine, q, k, v, q_start, sizes, k_direct, v_direct, c, scale, routine,
    dz, dlse, z, m_saved, inverse_saved, dq, dk, dv, work,
):  # fmt: skip
    """Compute the items with the indices `mine`; :func:`gta_ref.core.cpu.compiling.compiled` compiles this kernel."""
    maps, maps_per_k, maps_per_v, most_rows, most_keys, diagonal, few = sizes
    d_k, d_v, size = q.shape[3], v.shape[3], work.itemsize
    one = work.dtype.type(1)
    q_tile, at = carve(work, 0, most_rows, d_k)
    dq_tile, at = carve(work, at, most_rows, d_k)
    dz_tile, at = carve(work, at, most_rows, d_v)
    s_tile, at = carve(work, at, most_rows, most_keys)
    dp_tile, at = carve(work, at, most_rows, most_keys)
    by_row, at = carve(work, at, 3, most_rows)
    k_tile, at = carve(work, at, most_keys, d_k)
    v_tile, at = carve(work, at, most_keys, d_v)
    m, inverse, delta = by_row[0], by_row[1], by_row[2]
    for index in mine:
        b, map_, q_first, q_stop, k_first, k_stop, _ = items[index]
        rows = (q_stop - q_first) * maps
        k_head, v_head = map_ // maps_per_k, map_ // maps_per_v
        k_rows, v_rows = k[b, k_head], v[b, v_head]
        stands = q_start[b] + q_first
        load_maps(q_tile, q[b], map_, maps, q_first, q_stop)
        load_maps(dz_tile, dz[b], map_, maps, q_first, q_stop)
        dq_tile[:rows] = 0
        for i in range(q_first, q_stop):
            for j in range(maps):
                r, at = (i - q_first) * maps + j, (b, map_ + j, i)
                m[r], inverse[r] = m_saved[at], inverse_saved[at]
                delta[r] = dot(dz_tile, r, z, at) - dlse[at]
        s_at, dp_at = s_tile.ctypes.data, dp_tile.ctypes.data
        key = k_first
        while key < k_stop:
            width = min(most_keys if key + most_keys <= stands + 1 else diagonal, k_stop - key)
            blind = min(max(0, key - stands) * maps, rows)
            seeing = rows - blind
            k_at, k_ld = k_tile.ctypes.data, d_k
            if k_direct:
                k_at, k_ld = k_rows[key:].ctypes.data, k_rows.strides[0] // size
            else:
                load_rows(k_tile, k_rows, key, key + width)
            v_at, v_ld = v_tile.ctypes.data, d_v
            if v_direct:
                v_at, v_ld = v_rows[key:].ctypes.data, v_rows.strides[0] // size
            else:
                load_rows(v_tile, v_rows, key, key + width)
            q_at, dq_at, dz_at = (
                q_tile[blind:].ctypes.data, dq_tile[blind:].ctypes.data, dz_tile[blind:].ctypes.data,
            )  # fmt: skip
            dk_at, dv_at = dk[b, k_head, key:].ctypes.data, dv[b, v_head, key:].ctypes.data
            if rows <= few:  # as in the forward: sums in another order would give a slightly different map
                row_scores(q_tile[blind:rows], k_at, k_ld * size, width, s_tile, k_tile)
            else:
                gemm(routine, T, N, width, seeing, d_k, one, k_at, k_ld, q_at, d_k, 0, s_at, most_keys)
            gemm(routine, T, N, width, seeing, d_v, one, v_at, v_ld, dz_at, d_v, 0, dp_at, most_keys)
            sees = stands - key + 1 + blind // maps
            gradient_tile(s_tile, dp_tile, seeing, width, sees, maps, c, m[blind:], inverse[blind:], delta[blind:])
            gemm(routine, N, T, d_v, width, seeing, one, dz_at, d_v, s_at, most_keys, one, dv_at, d_v)
            gemm(routine, N, T, d_k, width, seeing, scale, q_at, d_k, dp_at, most_keys, one, dk_at, d_k)
            gemm(routine, N, N, d_k, seeing, width, scale, k_at, k_ld, dp_at, most_keys, one, dq_at, d_k)
            key += width
        store_maps(dq[b], dq_tile, map_, maps, q_first, q_stop)


@inlined(fastmath=FLAGS)
def dot(dz, r, z, at):
    """Σ_d dZ_rd Z_d, where Z is the row of z at the indices `at`."""
    b, j, i = at
    total = dz.dtype.type(0)
    for d in range(dz.shape[1]):
        total += dz[r, d] * z[b, j, i, d]
    return total
