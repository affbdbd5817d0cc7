"""The backward kernel: it recomputes the map panel by panel, with five products per panel and key tile.

    Sᵀ = K Qᵀ      Pᵀ = 2^(unit · (Sᵀ − m)) / l      dPᵀ = V dZᵀ      dSᵀ = Pᵀ ⊙ (dPᵀ − δ)
    dQᵀ += Kᵀ dSᵀ · scale        dV += Pᵀ dZ        dK += dSᵀ Q · scale        δ = rowsum(dZ ⊙ Z) − dlse

rowsum(dZ ⊙ Z) is Σ_j P_j dP_j, the sum in the softmax's derivative, because Σ_j P_j dZ·V_j = dZ·Z. The maps of a block
are rows of one tile, so the sums over the maps that share a key or value head are part of the products.

The first three products and dQᵀ have query rows in the lanes, as in the forward. dV and dK have their columns in the
lanes, and the numbers of Pᵀ and dSᵀ are broadcast. The panels of a group are summed in one go, so that dV and dK are
read and written once per group. An item is a query tile with all its keys. Each dQ belongs to one item; dK and dV are
sums over items.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NamedTuple

from numba import int32, types

from gta_ref.core.cpu.dots import dots
from gta_ref.core.cpu.lanes import LINE, ROWS, VECTOR_BYTES, VECTORS
from gta_ref.core.cpu.memory import get, reader, round_up
from gta_ref.core.cpu.products import across, add_rows, hide, scores
from gta_ref.core.cpu.softmax import gradient
from gta_ref.core.cpu.tiles import ITEM_BYTES, Rows, inlined, load_keys, read_item, read_rows
from gta_ref.core.cpu.turning import copy, deltas, fill, last_keys, pack, unpack

KEYS = 96  # per tile, a multiple of ROWS and of SUM_ROWS
GROUP = 2  # panels whose share of dV and dK is summed in one go


class Call(NamedTuple):
    """A call of the backward as the kernel reads it: addresses, sizes, and offsets in a worker's scratch memory."""

    items: int
    q_start: int
    by_row: int  # of m and inverse: bytes from one map to the next
    m: int
    inverse: int
    numbers: int  # those of the forward, and scale
    n_q: int
    n_k: int
    n_v: int
    n_keys: int
    maps: int
    maps_per_k: int
    maps_per_v: int
    d_k: int
    d_v: int
    k_width: int  # numbers per row of dk and dv, which are padded to whole vectors
    v_width: int
    size: int
    k_direct: int
    v_direct: int
    few: int  # whether the forward computed the scores row by row
    q_tile: int  # Qᵀ, dZᵀ and dQᵀ, by panel
    dz_tile: int
    dq_tile: int
    q_few: int  # factor · Q by row, if rows are few
    q_rows: int  # scale · Q and dZ, by row
    dz_rows: int
    s_tile: int  # Sᵀ and Pᵀ, dPᵀ and dSᵀ of a group of panels
    dp_tile: int
    k_tile: int
    v_tile: int
    m_tile: int
    inverse_tile: int
    delta_tile: int
    scales: int  # a vector of `scale`
    top: int
    last: int
    nowhere: int


# the Rows of these arrays follow a Call in memory; dlse has no numbers
ARRAYS = ("q", "k", "v", "dz", "z", "dlse", "dq")
Q, K, V, DZ, Z, DLSE, DQ = (8 * (len(Call._fields) + i * len(Rows._fields)) for i in range(len(ARRAYS)))
read_call = reader(Call)


def scratch(rows: int, d_k: int, d_v: int, size: int) -> dict[str, int]:
    """Bytes of scratch memory by the names of Call's offsets."""
    panels, lanes = -(-rows * size // LINE), VECTOR_BYTES // size
    padded = panels * LINE // size
    d_o = -(-d_k // ROWS) * ROWS
    k_width, v_width = (-(-d // lanes) * lanes for d in (d_k, d_v))
    return {
        "q_tile": panels * LINE * d_k,
        "dz_tile": panels * LINE * d_v,
        "dq_tile": panels * LINE * d_o,
        "q_few": rows * d_k * size,
        "q_rows": padded * k_width * size,
        "dz_rows": padded * v_width * size,
        "s_tile": GROUP * KEYS * LINE,
        "dp_tile": GROUP * KEYS * LINE,
        "k_tile": KEYS * d_o * size,
        "v_tile": KEYS * d_v * size,
        "m_tile": panels * LINE,
        "inverse_tile": panels * LINE,
        "delta_tile": panels * LINE,
        "scales": VECTOR_BYTES,
        "top": LINE,
        "last": panels * LINE,
        "nowhere": d_k * size,
    }


def signature(storage: Any, real: Any) -> Any:
    """The backward kernel's Numba signature for inputs of type `storage` that are computed in `real`."""
    return types.void(types.intp, storage, real, types.intp, types.int64, types.intp, types.intp, types.intp)


def backward(call, stored, one, mine, count, work, dk, dv):
    """Add the gradients of the items whose indices are the `count` numbers at `mine`; dK and dV go to dk and dv."""
    c = read_call(call)
    q, k, v = read_rows(call + Q), read_rows(call + K), read_rows(call + V)
    factor, unit = get(c.numbers, one), get(c.numbers + c.size, one)
    size, d_k, d_v, d_o, maps = c.size, c.d_k, c.d_v, round_up(c.d_k, ROWS), c.maps
    lanes, panel, zero, jump = VECTOR_BYTES // size, LINE // size, one - one, KEYS * LINE
    k_line, v_line = d_o * size, d_v * size
    k_tile, v_tile, top, last = work + c.k_tile, work + c.v_tile, work + c.top, work + c.last
    fill(work + c.scales, lanes, get(c.numbers + 5 * size, one), one)
    for n in range(count):
        item = read_item(c.items + get(mine + 8 * n, n) * ITEM_BYTES)
        rows, length = (item.q_stop - item.q_first) * maps, item.k_stop - item.k_first
        panels = (rows + panel - 1) // panel
        load_queries(call, c, q, item, rows, panels * panel, factor, work, stored, one)
        stands = get(c.q_start + 8 * item.batch, n) + item.q_first - item.k_first
        last_keys(last, rows, maps, panels * panel, stands, length, one)
        fill(work + c.dq_tile, panels * panel * d_o, zero, one)
        k_first = k.at + item.batch * k.batch + item.map // c.maps_per_k * k.head + item.k_first * k.position
        v_first = v.at + item.batch * v.batch + item.map // c.maps_per_v * v.head + item.k_first * v.position
        dk_first = ((item.batch * c.n_k + item.map // c.maps_per_k) * c.n_keys + item.k_first) * c.k_width * size + dk
        dv_first = ((item.batch * c.n_v + item.map // c.maps_per_v) * c.n_keys + item.k_first) * c.v_width * size + dv
        for key in range(0, length, KEYS):
            width = min(KEYS, length - key)
            k_at, k_step, k_whole = load_keys(
                k_first + key * k.position, k, width, d_k, c.k_direct, k_tile, k_line, size, stored, one
            )
            v_at, v_step, v_whole = load_keys(
                v_first + key * v.position, v, width, d_v, c.v_direct, v_tile, v_line, size, stored, one
            )
            for first in range(0, panels, GROUP):
                stop = min(first + GROUP, panels)
                seen = min(width, get(last + 4 * (panel * stop - 1), int32(0)) + 1 - key)  # keys that any row sees
                if seen <= 0:
                    continue
                for p in range(first, stop):
                    s, dp = work + c.s_tile + (p - first) * jump, work + c.dp_tile + (p - first) * jump
                    at, last_p = p * LINE, last + 4 * panel * p
                    vectors = min(VECTORS, (rows - p * panel + lanes - 1) // lanes)
                    all_see = get(last_p, int32(0)) - key
                    keys = round_up(max(0, min(seen, get(last_p + 4 * (panel - 1), int32(0)) + 1 - key)), ROWS)
                    q_p = work + c.q_tile + p * d_k * LINE
                    scores(k_at, k_step, k_whole, k_tile, k_line, keys, q_p, d_k, s, vectors, top, one)
                    if c.few != 0:
                        by_row(c, p * panel, min(p * panel + panel, rows), keys, k_at, k_step, k_whole, s, work, one)
                    clear = min(keys, max(all_see + 1, 0))  # keys that all rows see
                    hide(s + clear * LINE, last_p, key + clear, keys - clear, vectors, top, one)
                    dz_p = work + c.dz_tile + p * d_v * LINE
                    scores(v_at, v_step, v_whole, v_tile, v_line, keys, dz_p, d_v, dp, vectors, top, one)
                    m, inverse, delta = work + c.m_tile + at, work + c.inverse_tile + at, work + c.delta_tile + at
                    gradient(s, dp, keys, m, inverse, delta, vectors, unit, one)
                    dq_p = work + c.dq_tile + p * d_o * LINE
                    across(k_at, k_step, k_whole, k_tile, k_line, keys, dp, dq_p, d_o, vectors, one)
                    if keys < seen:
                        fill(s + keys * LINE, (seen - keys) * panel, zero, one)
                        fill(dp + keys * LINE, (seen - keys) * panel, zero, one)
                some = min(stop * panel, round_up(rows, lanes)) - first * panel
                dz_rows = work + c.dz_rows + first * panel * c.v_width * size
                q_rows = work + c.q_rows + first * panel * c.k_width * size
                dv_at, dk_at = dv_first + key * c.v_width * size, dk_first + key * c.k_width * size
                add_rows(work + c.s_tile, jump, some, dz_rows, c.v_width, seen, dv_at, one)
                add_rows(work + c.dp_tile, jump, some, q_rows, c.k_width, seen, dk_at, one)
        dq = read_rows(call + DQ)
        at = dq.at + item.batch * dq.batch + item.map * dq.head + item.q_first * dq.position
        unpack(
            work + c.dq_tile, d_o, work + c.scales, 0, d_k, at, dq.head, dq.position, rows, maps, work + c.nowhere, one
        )


@inlined
def by_row(c, first, stop, keys, k_at, k_step, k_whole, s, work, one):
    """Replace the scores of a few rows by those of the decode kernel, which adds in another order.

    With huge scores, a map from slightly different scores would not be the forward's.
    """
    size, whole, k_line = c.size, min(keys, k_whole), round_up(c.d_k, ROWS) * c.size
    for r in range(first, stop):
        q_r, s_r = work + c.q_few + r * c.d_k * size, s + (r - first) * size
        dots(q_r, 1, c.d_k, k_at, k_step, whole, s_r, 0, LINE, k_at, 0, 0, one, one)
        dots(q_r, 1, c.d_k, work + c.k_tile, k_line, keys - whole, s_r + whole * LINE, 0, LINE, k_at, 0, 0, one, one)


@inlined
def load_queries(call, c, q, item, rows, padded, factor, work, stored, one):
    """Load Q and dZ of a tile, by panel and by row, and m, 1/l and δ of each row; rows past the last add nothing."""
    dz, z, dlse = read_rows(call + DZ), read_rows(call + Z), read_rows(call + DLSE)
    zero, size, d_k, d_v, maps = one - one, c.size, c.d_k, c.d_v, c.maps
    q_line, dz_line = c.k_width * size, c.v_width * size
    q_at = q.at + item.batch * q.batch + item.map * q.head + item.q_first * q.position
    dz_at = dz.at + item.batch * dz.batch + item.map * dz.head + item.q_first * dz.position
    pack(q_at, q.head, q.position, q.number, rows, maps, d_k, work + c.q_tile, factor, stored, one)
    pack(dz_at, dz.head, dz.position, dz.number, rows, maps, d_v, work + c.dz_tile, one, stored, one)
    fill(work + c.q_rows, padded * c.k_width, zero, one)
    fill(work + c.dz_rows, padded * c.v_width, zero, one)
    scale = get(c.numbers + 5 * size, one)
    copy(q_at, q.head, q.position, q.number, rows, maps, d_k, work + c.q_rows, q_line, scale, stored, one)
    copy(dz_at, dz.head, dz.position, dz.number, rows, maps, d_v, work + c.dz_rows, dz_line, one, stored, one)
    if c.few != 0:
        copy(q_at, q.head, q.position, q.number, rows, maps, d_k, work + c.q_few, d_k * size, factor, stored, one)
    place = (item.batch * c.n_q + item.map) * c.by_row + item.q_first * size
    m, inverse, delta = work + c.m_tile, work + c.inverse_tile, work + c.delta_tile
    copy(c.m + place, c.by_row, size, 0, rows, maps, 1, m, size, one, one, one)
    copy(c.inverse + place, c.by_row, size, 0, rows, maps, 1, inverse, size, one, one, one)
    z_at = z.at + item.batch * z.batch + item.map * z.head + item.q_first * z.position
    dlse_at = dlse.at + item.batch * dlse.batch + item.map * dlse.head + item.q_first * dlse.position
    deltas(
        work + c.dz_rows, dz_line, z_at, z.head, z.position, dlse_at, dlse.head, dlse.position, rows, maps, padded, d_v,
        m, inverse, delta, one,
    )  # fmt: skip
