"""Merging the results of a query tile's chunks of keys.

Each chunk has its own m_i, l_i and O_i. With M = max m_i, l = Σ 2^(unit · (m_i − M)) l_i, and O likewise.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from gta_ref.core.cpu.forward import Z, read_call
from gta_ref.core.cpu.lanes import I32, I64, VECTOR_BYTES, Lanes, micro_kernel
from gta_ref.core.cpu.memory import get, reader
from gta_ref.core.cpu.softmax import exp2
from gta_ref.core.cpu.tiles import read_rows, write_row
from gta_ref.core.cpu.turning import copy, fill


class Merge(NamedTuple):
    """The slots of one query tile, as a row of the plan's table."""

    batch: int
    map: int
    q_first: int
    q_stop: int
    first: int
    last: int


read_merge = reader(Merge)
MERGE_BYTES = 8 * len(Merge._fields)


@micro_kernel("m* step slots weights* unit.")
def shares(x: Lanes, m: Any, step: Any, slots: Any, weights: Any, unit: Any) -> None:
    """weights[i] = 2^(unit · (m_i − M)) of the numbers m_i, `step` bytes apart; M, the largest, goes after the last."""
    b, size, scalar = x.b, x.real.bytes, x.real.scalar

    def best(i: Any, found: list[Any]) -> list[Any]:
        other = x.load(m, x.times(i, step), scalar)
        return [b.select(b.fcmp_ordered(">", other, found[0]), other, found[0])]

    top = x.loop(slots, [scalar(x.real.lowest)], best)[0]
    tops, units = x.splat(top), x.splat(unit)

    def share(i: Any, _: Any) -> list[Any]:
        d = b.fsub(x.splat(x.load(m, x.times(i, step), scalar)), tops)
        x.store(b.extract_element(exp2(x, d, units), I32(0)), weights, x.times(i, size))
        return []

    x.loop(slots, [], share)
    x.store(top, weights, x.times(slots, size))


@micro_kernel("out* a* weight. width")
def add_scaled(x: Lanes, out: Any, a: Any, weight: Any, width: Any) -> None:
    """out[i] += weight · a[i]."""
    b, vectors = x.b, x.b.sdiv(width, I64(x.real.lanes))
    weights, done = x.splat(weight), x.times(vectors, x.real.lanes)

    def vector(i: Any, _: Any) -> list[Any]:
        at = x.times(i, VECTOR_BYTES)
        x.store(x.fma(weights, x.load(a, at), x.load(out, at)), out, at)
        return []

    def single(i: Any, _: Any) -> list[Any]:
        at = x.times(b.add(i, done), x.real.bytes)
        x.store(x.fma(weight, x.load(a, at, x.real.scalar), x.load(out, at, x.real.scalar)), out, at)
        return []

    x.loop(vectors, [], vector)
    x.loop(b.sub(width, done), [], single)


def signature(real: Any) -> Any:
    """The kernel's Numba signature."""
    return types.void(types.intp, real, types.intp, types.int64, types.intp)


def merge(call, one, merges, count, work):
    """Merge the slots of `count` query tiles, in the order of their keys.

    `call` is the address of the forward's Call, `merges` that of the plan's table; at `work` there is room for one row
    of O and a number more than there are slots.
    """
    c = read_call(call)
    size, maps, width = c.size, c.maps, c.d_v
    z, unit, weights = read_rows(call + Z), get(c.numbers + size, one), work + width * size
    for n in range(count):
        part = read_merge(merges + n * MERGE_BYTES)
        slots = part.last - part.first
        for r in range((part.q_stop - part.q_first) * maps):
            row, step = part.first * c.rows + r, c.rows * size
            shares(c.part_m + row * size, step, slots, weights, unit, one)
            fill(work, width, one - one, one)
            total = one - one
            for i in range(slots):
                weight = get(weights + i * size, one)
                total += weight * get(c.part_l + row * size + i * step, one)
                add_scaled(work, c.part_o + row * width * size + i * step * width, weight, width, one)
            head, i = part.map + r % maps, part.q_first + r // maps
            inverse = write_row(c, part.batch, head, i, get(weights + slots * size, one), total, one)
            z_at = z.at + part.batch * z.batch + head * z.head + i * z.position
            copy(work, 0, 0, size, 1, 1, width, z_at, 0, inverse, one, one)
