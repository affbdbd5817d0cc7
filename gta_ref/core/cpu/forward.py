"""The forward kernel: query tiles times key tiles, panel by panel, with one running softmax per row.

A query tile holds the rows of all maps of a block. For each key tile in turn, and each panel of the query tile:

    Sᵀ = K Qᵀ     m' = max(m, max S)     Pᵀ = 2^(unit · (Sᵀ − m'))     Oᵀ = 2^(unit · (m − m')) Oᵀ + Vᵀ Pᵀ
    l = 2^(unit · (m − m')) l + Σ P

and at the end z = O / l, lse = m · unit · ln 2 + ln l. Sᵀ of a panel and a key tile stays in the first-level cache; Qᵀ
and Oᵀ of the query tile stay in the second. An item with a slot sees only a part of the keys; it stores O, m and l in
its slot, for :func:`gta_ref.core.cpu.merging.merge`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NamedTuple

from numba import int32, types

from gta_ref.core.cpu.lanes import LINE, ROWS, VECTOR_BYTES, VECTORS
from gta_ref.core.cpu.memory import get, put, reader, round_up
from gta_ref.core.cpu.products import across, hide, scores
from gta_ref.core.cpu.softmax import raise_max, weights
from gta_ref.core.cpu.tiles import ITEM_BYTES, Rows, inlined, load_keys, read_item, read_rows, write_row
from gta_ref.core.cpu.turning import fill, last_keys, pack, unpack


class Call(NamedTuple):
    """A call of the forward as the kernel reads it: addresses, sizes, and offsets in a worker's scratch memory."""

    items: int
    q_start: int
    by_row: int  # of lse, m and inverse: bytes from one map to the next
    lse: int
    m: int
    inverse: int
    part_o: int  # the slots: (slots, rows, d_v), (slots, rows), (slots, rows)
    part_m: int
    part_l: int
    numbers: int  # factor, unit, slack, unit · ln 2, the lowest number; in the precision of computation
    n_q: int
    maps: int
    maps_per_k: int
    maps_per_v: int
    rows: int  # most rows per tile
    keys: int  # most keys per tile
    d_k: int
    d_v: int
    size: int  # bytes per number in the precision of computation
    k_direct: int  # whether rows are read in place
    v_direct: int
    q_tile: int  # Qᵀ, by panel
    o_tile: int  # Oᵀ, by panel
    s_tile: int  # Sᵀ and Pᵀ of one panel
    k_tile: int
    v_tile: int
    m_tile: int
    l_tile: int
    top: int  # running maximum of one panel, and a second one that is not used
    last: int  # last key of each row, as int32
    nowhere: int


# the Rows of q, k, v and z follow a Call in memory
Q, K, V, Z = (8 * (len(Call._fields) + i * len(Rows._fields)) for i in range(4))
read_call = reader(Call)


def scratch(rows: int, keys: int, d_k: int, d_v: int, size: int) -> dict[str, int]:
    """Bytes of scratch memory by the names of Call's offsets."""
    panels = -(-rows * size // LINE)
    d_o = -(-d_v // ROWS) * ROWS
    return {
        "q_tile": panels * LINE * d_k,
        "o_tile": panels * LINE * d_o,
        "s_tile": keys * LINE,
        "k_tile": keys * d_k * size,
        "v_tile": keys * d_o * size,
        "m_tile": panels * LINE,
        "l_tile": panels * LINE,
        "top": 2 * LINE,
        "last": panels * LINE,
        "nowhere": d_v * size,
    }


def signature(storage: Any, real: Any) -> Any:
    """The forward kernel's Numba signature for inputs of type `storage` that are computed in `real`."""
    return types.void(types.intp, storage, real, types.intp, types.int64, types.intp)


def forward(call, stored, one, mine, count, work):
    """Compute the items whose indices are the `count` numbers at `mine`, with the scratch memory at `work`.

    `call` is the address of a Call; `stored` is any number in the storage type of q, k and v, and `one` is 1.
    """
    c = read_call(call)
    q, k, v, z = read_rows(call + Q), read_rows(call + K), read_rows(call + V), read_rows(call + Z)
    factor, unit, slack = (
        get(c.numbers, one),
        get(c.numbers + c.size, one),
        get(c.numbers + 2 * c.size, one),
    )
    lowest = get(c.numbers + 4 * c.size, one)
    size, d_k, d_o, maps = c.size, c.d_k, round_up(c.d_v, ROWS), c.maps
    lanes, panel, zero = VECTOR_BYTES // size, LINE // size, one - one
    k_line, v_line = d_k * size, d_o * size
    k_tile, v_tile, s = work + c.k_tile, work + c.v_tile, work + c.s_tile
    top, unused = work + c.top, work + c.top + LINE
    for n in range(count):
        item = read_item(c.items + get(mine + 8 * n, n) * ITEM_BYTES)
        rows, length = (item.q_stop - item.q_first) * maps, item.k_stop - item.k_first
        panels = (rows + panel - 1) // panel
        padded = panels * panel
        q_at = q.at + item.batch * q.batch + item.map * q.head + item.q_first * q.position
        pack(q_at, q.head, q.position, q.number, rows, maps, d_k, work + c.q_tile, factor, stored, one)
        stands = get(c.q_start + 8 * item.batch, n) + item.q_first - item.k_first
        last_keys(work + c.last, rows, maps, padded, stands, length, one)
        fill(work + c.o_tile, padded * d_o, zero, one)
        fill(work + c.m_tile, padded, lowest, one)
        fill(work + c.l_tile, padded, zero, one)
        k_first = k.at + item.batch * k.batch + item.map // c.maps_per_k * k.head + item.k_first * k.position
        v_first = v.at + item.batch * v.batch + item.map // c.maps_per_v * v.head + item.k_first * v.position
        for key in range(0, length, c.keys):
            width = min(c.keys, length - key)
            k_at, k_step, k_whole = load_keys(
                k_first + key * k.position, k, width, d_k, c.k_direct, k_tile, k_line, size, stored, one
            )
            v_at, v_step, v_whole = load_keys(
                v_first + key * v.position, v, width, c.d_v, c.v_direct, v_tile, v_line, size, stored, one
            )
            for p in range(panels):
                last, vectors = work + c.last + 4 * panel * p, min(VECTORS, (rows - p * panel + lanes - 1) // lanes)
                all_see = get(last, int32(0)) - key  # the last key of the tile that all rows of the panel see
                some_see = get(last + 4 * (panel - 1), int32(0)) - key
                keys = round_up(max(0, min(width, some_see + 1)), ROWS)
                if keys == 0:
                    continue
                # groups of keys that all rows see; the others have to be hidden from some rows
                seen = min(keys, (all_see + 1) // ROWS * ROWS) if all_see >= 0 else 0
                m_p, l_p = work + c.m_tile + p * LINE, work + c.l_tile + p * LINE
                q_p, o_p = work + c.q_tile + p * d_k * LINE, work + c.o_tile + p * d_o * LINE
                fill(top, panel, lowest, one)
                scores(k_at, k_step, k_whole, k_tile, k_line, seen, q_p, d_k, s, vectors, top, one)
                if seen < keys:
                    scores(
                        k_at + seen * k_step, k_step, k_whole - seen, k_tile, k_line, keys - seen, q_p, d_k,
                        s + seen * LINE, vectors, unused, one,
                    )  # fmt: skip
                    hide(s + seen * LINE, last, key + seen, keys - seen, vectors, top, one)
                raise_max(top, m_p, l_p, o_p, d_o, vectors, unit, slack, one)
                weights(s, keys, m_p, l_p, vectors, unit, one)
                across(v_at, v_step, v_whole, v_tile, v_line, keys, s, o_p, d_o, vectors, one)
        finish(c, z, item, rows, d_o, work, one)


@inlined
def finish(c, z, item, rows, lines, work, one):
    """Write the results of an item: z = O / l, lse, and m and 1/l for the backward; or O, m and l to its slot.

    A panel of O has `lines` lines.
    """
    size, maps, line, factors = c.size, c.maps, c.d_v * c.size, work + c.l_tile
    for r in range(rows):
        m, total = get(work + c.m_tile + r * size, one), get(factors + r * size, one)
        factor = one
        if item.slot >= 0:
            put(c.part_m + (item.slot * c.rows + r) * size, m)
            put(c.part_l + (item.slot * c.rows + r) * size, total)
        else:
            factor = write_row(c, item.batch, item.map + r % maps, item.q_first + r // maps, m, total, one)
        put(factors + r * size, factor)
    if item.slot >= 0:
        at, by_map, by_position = c.part_o + item.slot * c.rows * line, line, maps * line
    else:
        at = z.at + item.batch * z.batch + item.map * z.head + item.q_first * z.position
        by_map, by_position = z.head, z.position
    nowhere = work + c.nowhere
    unpack(work + c.o_tile, lines, factors, VECTOR_BYTES, c.d_v, at, by_map, by_position, rows, maps, nowhere, one)
