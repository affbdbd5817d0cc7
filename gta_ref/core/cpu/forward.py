"""The forward kernel: query tiles times key tiles, with one running softmax per row.

A query tile holds the rows of all maps of a block. For each key tile in turn, the kernel computes

    S = Q Kᵀ     m' = max(m, c · max S)     P = 2^(c·S − m')     O = 2^(m − m') O + P V     l = 2^(m − m') l + Σ P

and at the end z = O / l, lse = m ln 2 + ln l. S and P are kept only for the current tile. An item with a slot sees only
a part of the keys; it stores O, m and l in its slot, for :func:`merge`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from gta_ref.core.cpu.compiling import FLAGS, inlined
from gta_ref.core.cpu.llvm import exp2, gemm
from gta_ref.core.cpu.plan import Sizes
from gta_ref.core.cpu.rows import row_context, row_scores
from gta_ref.core.cpu.tile import LINE, LN2, carve, load_maps, load_rows, softmax_tile

N, T = ord("N"), ord("T")


def workspace_size(sizes: Sizes, d_k: int, d_v: int) -> int:
    """Scratch memory of a worker's forward, in numbers: Q, O, S, m and l, and a tile of K and of V."""
    return sizes.rows * (d_k + d_v + sizes.keys + 2) + sizes.keys * (d_k + d_v) + 8 * LINE


def forward_signature(storage: Any, real: Any) -> Any:
    """The forward kernel's Numba signature for inputs of type `storage` that are computed in `real`."""
    x = types.Array(storage, 4, "A", readonly=True)
    whole, flag = types.Array(types.int64, 1, "C", readonly=True), types.boolean
    items = types.Array(types.int64, 2, "C", readonly=True)
    rows, slots, outputs = real[:, :, ::1], real[:, ::1], real[:, :, :, ::1]
    sizes = types.UniTuple(types.int64, len(Sizes._fields))
    return types.void(
        *(items, whole, x, x, x, whole, sizes, flag, flag, real, types.intp),
        *(outputs, rows, rows, rows, rows, slots, slots, real[::1]),
    )


def forward(
    items, mine, q, k, v, q_start, sizes, k_direct, v_direct, c, routine,
    z, lse, m_out, inverse_out, part_o, part_m, part_l, work,
):  # fmt: skip
    """Compute the items with the indices `mine`; :func:`gta_ref.core.cpu.compiling.compiled` compiles this kernel."""
    maps, maps_per_k, maps_per_v, most_rows, most_keys, diagonal, few = sizes
    d_k, d_v, size = q.shape[3], v.shape[3], work.itemsize
    one = work.dtype.type(1)
    q_tile, at = carve(work, 0, most_rows, d_k)
    o_tile, at = carve(work, at, most_rows, d_v)
    s_tile, at = carve(work, at, most_rows, most_keys)
    sums, at = carve(work, at, 2, most_rows)
    k_tile, at = carve(work, at, most_keys, d_k)
    v_tile, at = carve(work, at, most_keys, d_v)
    m, total = sums[0], sums[1]
    for index in mine:
        b, map_, q_first, q_stop, k_first, k_stop, slot = items[index]
        rows = (q_stop - q_first) * maps
        k_rows, v_rows = k[b, map_ // maps_per_k], v[b, map_ // maps_per_v]
        stands = q_start[b] + q_first  # the last key that the first position sees
        load_maps(q_tile, q[b], map_, maps, q_first, q_stop)
        o_tile[:rows] = 0
        m[:rows] = -np.inf
        total[:rows] = 0
        key = k_first
        while key < k_stop:
            # a full tile if all rows see it; narrower ones on the diagonal, without the rows that do not see them
            width = min(most_keys if key + most_keys <= stands + 1 else diagonal, k_stop - key)
            blind = min(max(0, key - stands) * maps, rows)
            seeing = rows - blind
            k_at, k_step = k_tile.ctypes.data, d_k * size
            if k_direct:
                k_at, k_step = k_rows[key:].ctypes.data, k_rows.strides[0]
            else:
                load_rows(k_tile, k_rows, key, key + width)
            v_at, v_step = v_tile.ctypes.data, d_v * size
            if v_direct:
                v_at, v_step = v_rows[key:].ctypes.data, v_rows.strides[0]
            else:
                load_rows(v_tile, v_rows, key, key + width)
            q_at, o_at = q_tile[blind:].ctypes.data, o_tile[blind:].ctypes.data
            s_at = s_tile.ctypes.data
            sees = stands - key + 1 + blind // maps
            if rows <= few:
                q_rows = q_tile[blind:rows]
                if k_direct:
                    row_scores(q_rows, k_at, k_step, width, s_tile, k)
                else:
                    row_scores(q_rows, k_at, k_step, width, s_tile, k_tile)
            else:
                gemm(routine, T, N, width, seeing, d_k, one, k_at, k_step // size, q_at, d_k, 0, s_at, most_keys)
            softmax_tile(s_tile, seeing, width, sees, maps, c, m[blind:], total[blind:], o_tile[blind:])
            if rows <= few:
                o_rows = o_tile[blind:rows]
                if v_direct:
                    row_context(s_tile, v_at, v_step, width, o_rows, v)
                else:
                    row_context(s_tile, v_at, v_step, width, o_rows, v_tile)
            else:
                gemm(routine, N, N, d_v, seeing, width, one, v_at, v_step // size, s_at, most_keys, one, o_at, d_v)
            key += width
        if slot >= 0:
            part_o[slot, :rows] = o_tile[:rows]
            part_m[slot, :rows] = m[:rows]
            part_l[slot, :rows] = total[:rows]
            continue
        for i in range(q_first, q_stop):
            for j in range(maps):
                r = (i - q_first) * maps + j
                finish(o_tile, r, m[r], total[r], z, lse, m_out, inverse_out, (b, map_ + j, i))


@inlined(fastmath=FLAGS, error_model="numpy")
def finish(o, r, m, total, z, lse, m_out, inverse_out, at):
    """Write a row of the results, z = O / l and lse, and m and 1/l for the backward.

    The arguments are whole arrays and the indices `at`, not rows: making a view takes as long as writing the row.
    """
    b, j, i = at
    seen = total != 0  # NaN is not 0, so it reaches the results
    inverse = 1 / total if seen else total
    for d in range(z.shape[3]):
        z[b, j, i, d] = o[r, d] * inverse
    lse[at] = m * LN2 + math.log(total) if seen else -np.inf
    m_out[at] = m if seen else total
    inverse_out[at] = inverse


def merge_signature(storage: Any, real: Any) -> Any:
    """The merging kernel's Numba signature."""
    rows, slots, outputs = real[:, :, ::1], real[:, ::1], real[:, :, :, ::1]
    merges = types.Array(types.int64, 2, "C", readonly=True)
    return types.void(merges, types.int64, outputs, rows, rows, rows, rows, slots, slots)


def merge(merges, maps, z, lse, m_out, inverse_out, part_o, part_m, part_l):
    """Merge the results of a query tile's chunks, in the order of their keys.

    Each chunk has its own m. With M the largest of them, O = Σ 2^(m_i − M) O_i and l = Σ 2^(m_i − M) l_i.
    """
    one = part_m.dtype.type(1)
    for b, map_, q_first, q_stop, first, last in merges:
        for r in range((q_stop - q_first) * maps):
            top = part_m[first, r]
            for slot in range(first + 1, last):
                top = max(top, part_m[slot, r])
            o, total = part_o[first, r], part_m.dtype.type(0)
            for slot in range(first, last):
                # m is −inf if the row sees no key of a chunk
                seen = part_m[slot, r] != -np.inf
                weight = exp2(part_m[slot, r], one, top) if seen else part_m.dtype.type(0)
                total += weight * part_l[slot, r]
                for j in range(o.shape[0]):
                    o[j] = weight * part_o[slot, r, j] + (o[j] if slot > first else 0)
            at = b, map_ + r % maps, q_first + r // maps
            finish(part_o[first], r, top, total, z, lse, m_out, inverse_out, at)
