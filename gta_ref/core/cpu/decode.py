"""The forward kernel for few rows per block of maps, as in decoding: rows stay rows, and each key is read once.

The algorithm is that of the forward kernel, with one running softmax per row.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from gta_ref.core.cpu.dots import MOST_ROWS, dots, gather, weigh
from gta_ref.core.cpu.forward import K, Q, V, Z, read_call
from gta_ref.core.cpu.memory import get, put
from gta_ref.core.cpu.tiles import ITEM_BYTES, inlined, read_item, read_rows, write_row
from gta_ref.core.cpu.turning import copy, fill


def scratch(rows: int, keys: int, d_k: int, d_v: int, size: int) -> dict[str, int]:
    """Bytes of scratch memory by the names of Call's offsets; `keys` rows of scores are a multiple of a vector."""
    return {
        "q_tile": rows * d_k * size,
        "o_tile": rows * d_v * size,
        "s_tile": rows * keys * size,
        "k_tile": keys * d_k * size,
        "v_tile": keys * d_v * size,
        "m_tile": rows * size,
        "l_tile": rows * size,
        "top": 0,
        "last": 0,
        "nowhere": 0,
    }


def decode(call, stored, one, mine, count, work):
    """Compute the items whose indices are the `count` numbers at `mine`; arguments as of the forward kernel."""
    c = read_call(call)
    q, k, v, z = read_rows(call + Q), read_rows(call + K), read_rows(call + V), read_rows(call + Z)
    size, d_k, d_v, maps = c.size, c.d_k, c.d_v, c.maps
    factor, unit, slack = get(c.numbers, one), get(c.numbers + size, one), get(c.numbers + 2 * size, one)
    lowest, zero = get(c.numbers + 4 * size, one), one - one
    k_line, v_line, s_line = d_k * size, d_v * size, c.keys * size
    v_lines = d_v * v.number // 64 if c.v_direct != 0 else 0
    q_tile, o_tile, s_tile = work + c.q_tile, work + c.o_tile, work + c.s_tile
    k_tile, v_tile, m_tile, l_tile = work + c.k_tile, work + c.v_tile, work + c.m_tile, work + c.l_tile
    for n in range(count):
        item = read_item(c.items + get(mine + 8 * n, n) * ITEM_BYTES)
        rows, length = (item.q_stop - item.q_first) * maps, item.k_stop - item.k_first
        q_at = q.at + item.batch * q.batch + item.map * q.head + item.q_first * q.position
        copy(q_at, q.head, q.position, q.number, rows, maps, d_k, q_tile, k_line, factor, stored, one)
        fill(o_tile, rows * d_v, zero, one)
        fill(m_tile, rows, lowest, one)
        fill(l_tile, rows, zero, one)
        stands = get(c.q_start + 8 * item.batch, n) + item.q_first - item.k_first
        k_first = k.at + item.batch * k.batch + item.map // c.maps_per_k * k.head + item.k_first * k.position
        v_first = v.at + item.batch * v.batch + item.map // c.maps_per_v * v.head + item.k_first * v.position
        for key in range(0, length, c.keys):
            width = min(c.keys, length - key)
            k_at, v_at = k_first + key * k.position, v_first + key * v.position
            if c.k_direct == 0:
                copy(k_at, 0, k.position, k.number, width, 1, d_k, k_tile, k_line, one, stored, one)
            if c.v_direct == 0:
                copy(v_at, 0, v.position, v.number, width, 1, d_v, v_tile, v_line, one, stored, one)
            for first in range(0, rows, MOST_ROWS):
                some, q_some, s_some = min(MOST_ROWS, rows - first), q_tile + first * k_line, s_tile + first * s_line
                lines = v_lines if first == 0 else 0
                if c.k_direct != 0:
                    dots(
                        q_some, some, d_k, k_at, k.position, width, s_some, s_line, size, v_at, v.position, lines,
                        stored, one,
                    )  # fmt: skip
                else:
                    dots(q_some, some, d_k, k_tile, k_line, width, s_some, s_line, size, v_at, 0, 0, one, one)
            for r in range(rows):
                seen = max(min(width, stands - key + 1 + r // maps), 0)
                s_r, o_r, m_r, l_r = s_tile + r * s_line, o_tile + r * v_line, m_tile + r * size, l_tile + r * size
                weigh(s_r, seen, width, m_r, l_r, o_r, d_v, unit, slack, one)
            for first in range(0, rows, MOST_ROWS):
                some, o_some, s_some = min(MOST_ROWS, rows - first), o_tile + first * v_line, s_tile + first * s_line
                if c.v_direct != 0:
                    gather(s_some, s_line, some, v_at, v.position, width, o_some, d_v, stored, one)
                else:
                    gather(s_some, s_line, some, v_tile, v_line, width, o_some, d_v, one, one)
        finish(c, z, item, rows, work, one)


@inlined
def finish(c, z, item, rows, work, one):
    """Write the results of an item, or O, m and l to its slot."""
    size, maps, line = c.size, c.maps, c.d_v * c.size
    for r in range(rows):
        m, total = get(work + c.m_tile + r * size, one), get(work + c.l_tile + r * size, one)
        o = work + c.o_tile + r * line
        if item.slot >= 0:
            row = item.slot * c.rows + r
            put(c.part_m + row * size, m)
            put(c.part_l + row * size, total)
            copy(o, 0, 0, size, 1, 1, c.d_v, c.part_o + row * line, 0, one, one, one)
        else:
            head, i = item.map + r % maps, item.q_first + r // maps
            inverse = write_row(c, item.batch, head, i, m, total, one)
            z_at = z.at + item.batch * z.batch + head * z.head + i * z.position
            copy(o, 0, 0, size, 1, 1, c.d_v, z_at, 0, inverse, one, one)
