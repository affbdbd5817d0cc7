"""The forward kernel on matrix units: bfloat16 operands, float32 sums.

The algorithm is that of the forward kernel, panel by panel. What differs is the operands: Q, K, V and the weights P are
bfloat16 numbers, in pairs, and scores are multiplied by the scale only in the softmax, because Q times the scale would
be rounded. The running maximum is that of the unscaled scores until the end.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from numba import int32, types

from gta_ref.core.cpu.forward import K, Q, V, Z, finish, read_call
from gta_ref.core.cpu.lanes import LINE, ROWS, VECTOR_BYTES, VECTORS
from gta_ref.core.cpu.matrix_units import FORMS, PAIRS, TILE_ROWS
from gta_ref.core.cpu.memory import get, put, round_up
from gta_ref.core.cpu.pairs import (
    NUMBERS,
    begin,
    copy_rows,
    end,
    multiply,
    pack_pairs,
    raise_top,
    turn_rows,
    weights_in_pairs,
)
from gta_ref.core.cpu.products import hide
from gta_ref.core.cpu.softmax import raise_max
from gta_ref.core.cpu.tiles import ITEM_BYTES, inlined, read_item, read_rows
from gta_ref.core.cpu.turning import fill, last_keys


def scratch(rows: int, keys: int, d_k: int, d_v: int, size: int) -> dict[str, int]:
    """Bytes of scratch memory by the names of Call's offsets; `keys` is a multiple of NUMBERS."""
    panels = -(-rows * size // LINE)
    lines_q, lines_o = -(-d_k // NUMBERS) * PAIRS, -(-d_v // TILE_ROWS) * TILE_ROWS
    return {
        "q_tile": panels * LINE * lines_q,
        "o_tile": panels * LINE * lines_o,
        "s_tile": keys * LINE,
        "k_tile": keys * lines_q * 4,
        "v_tile": keys * lines_o * 2,
        "m_tile": panels * LINE,
        "l_tile": panels * LINE,
        "top": LINE,
        "last": panels * LINE,
        "nowhere": d_v * size,
    }


def signature(form: str, real: Any) -> Any:
    """The kernel's Numba signature for a form of the matrix unit."""
    return types.void(types.intp, FORMS[form], real, types.intp, types.intp, types.int64, types.intp)


@inlined
def scores(k_at, k_step, whole, k_tile, k_line, groups, q_p, steps, s, vectors, stored, one):
    """Sᵀ of `groups` groups of keys; those from the key `whole` on are in k_tile."""
    here = min(groups, whole // TILE_ROWS)
    multiply(k_at, k_step, q_p, steps, s, here, vectors, 1, stored, one)
    multiply(k_tile, k_line, q_p, steps, s + here * TILE_ROWS * LINE, groups - here, vectors, 1, stored, one)


def forward_bf16(call, stored, one, configuration, mine, count, work):
    """Compute the items whose indices are the `count` numbers at `mine`; other arguments as of the forward kernel.

    The type of `stored` tells the form of the matrix unit; `configuration` is the address of the tiles' sizes.
    """
    c = read_call(call)
    q, k, v, z = read_rows(call + Q), read_rows(call + K), read_rows(call + V), read_rows(call + Z)
    size, d_k, maps, zero = c.size, c.d_k, c.maps, one - one
    factor = get(c.numbers, one)
    unit, slack, lowest = (
        get(c.numbers + size, one) * factor,
        get(c.numbers + 2 * size, one) / factor,
        get(c.numbers + 4 * size, one),
    )
    steps, lines_o = round_up(d_k, NUMBERS) // NUMBERS, round_up(c.d_v, TILE_ROWS)
    lines_q, k_line, v_line = steps * PAIRS, steps * NUMBERS * 2, c.keys * 2
    lanes, panel = VECTOR_BYTES // size, LINE // size
    k_tile, v_tile, s, top = work + c.k_tile, work + c.v_tile, work + c.s_tile, work + c.top
    begin(configuration, stored, one)
    for n in range(count):
        item = read_item(c.items + get(mine + 8 * n, n) * ITEM_BYTES)
        rows, length = (item.q_stop - item.q_first) * maps, item.k_stop - item.k_first
        panels = (rows + panel - 1) // panel
        q_at = q.at + item.batch * q.batch + item.map * q.head + item.q_first * q.position
        pack_pairs(q_at, q.head, q.position, q.number, rows, maps, d_k, work + c.q_tile, lines_q, one)
        stands = get(c.q_start + 8 * item.batch, n) + item.q_first - item.k_first
        last_keys(work + c.last, rows, maps, panels * panel, stands, length, one)
        fill(work + c.o_tile, panels * panel * lines_o, zero, one)
        fill(work + c.m_tile, panels * panel, lowest, one)
        fill(work + c.l_tile, panels * panel, zero, one)
        k_first = k.at + item.batch * k.batch + item.map // c.maps_per_k * k.head + item.k_first * k.position
        v_first = v.at + item.batch * v.batch + item.map // c.maps_per_v * v.head + item.k_first * v.position
        for key in range(0, length, c.keys):
            width = min(c.keys, length - key)
            k_at = k_first + key * k.position
            whole = width // TILE_ROWS * TILE_ROWS if c.k_direct != 0 else 0
            padded = round_up(width, NUMBERS)
            copy_rows(
                k_at + whole * k.position, k.position, k.number, width - whole, d_k, k_tile, k_line, padded - whole, one
            )  # fmt: skip
            turn_rows(v_first + key * v.position, v.position, v.number, width, c.d_v, v_tile, v_line, lines_o, one)
            for p in range(panels):
                last, vectors = work + c.last + 4 * panel * p, min(VECTORS, (rows - p * panel + lanes - 1) // lanes)
                all_see = get(last, int32(0)) - key  # the last key of the tile that all rows of the panel see
                some_see = get(last + 4 * (panel - 1), int32(0)) - key
                keys = round_up(max(0, min(width, some_see + 1)), NUMBERS)
                if keys == 0:
                    continue
                # groups of keys that all rows see; the others have to be hidden from some rows
                seen = min(keys, (all_see + 1) // ROWS * ROWS) if all_see >= 0 else 0
                m_p, l_p = work + c.m_tile + p * LINE, work + c.l_tile + p * LINE
                q_p, o_p = work + c.q_tile + p * lines_q * LINE, work + c.o_tile + p * lines_o * LINE
                groups = keys // TILE_ROWS
                scores(k_at, k.position, whole, k_tile, k_line, groups, q_p, steps, s, vectors, stored, one)
                fill(top, panel, lowest, one)
                raise_top(s, seen, vectors, top, one)
                if seen < keys:
                    hide(s + seen * LINE, last, key + seen, keys - seen, vectors, top, one)
                raise_max(top, m_p, l_p, o_p, lines_o, vectors, unit, slack, one)
                weights_in_pairs(s, keys, m_p, l_p, vectors, unit, one)
                multiply(v_tile, v_line, s, keys // NUMBERS, o_p, lines_o // TILE_ROWS, vectors, 0, stored, one)
        for r in range(rows):
            put(work + c.m_tile + r * size, get(work + c.m_tile + r * size, one) * factor)
        finish(c, z, item, rows, lines_o, work, one)
    end(configuration, stored, one)
