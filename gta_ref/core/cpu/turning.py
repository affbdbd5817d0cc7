"""Rows of arrays into panels and back: widening, scaling and turning, a square of vectors at a time.

Storage: float16 arrays are passed to the kernels as uint16 and bfloat16 arrays as int16, so that the type says how to
widen a number.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from gta_ref.core.cpu.lanes import I16, I32, I64, LINE, VECTOR_BYTES, VECTORS, Lanes, micro_kernel


def stored_bytes(x: Lanes, storage: Any) -> int:
    """Size of a stored number."""
    return x.real.bytes if isinstance(storage, types.Float) else 2


def load_stored(x: Lanes, address: Any, storage: Any, lanes: int = 1) -> Any:
    """Load a stored number, or `lanes` adjacent ones, and widen them to the precision of computation."""
    b = x.b

    def shape(scalar: ir.Type) -> ir.Type:
        return ir.VectorType(scalar, lanes) if lanes > 1 else scalar

    size = stored_bytes(x, storage)
    bits = x.load(address, 0, shape(I16 if size == 2 else x.real.scalar), size)
    if storage == types.uint16:
        return b.fpext(b.bitcast(bits, shape(ir.HalfType())), shape(x.real.scalar))
    if storage == types.int16:  # bfloat16 is the upper half of a float32
        sixteen = ir.Constant(shape(I32), [16] * lanes if lanes > 1 else 16)
        return b.bitcast(b.shl(b.zext(bits, shape(I32)), sixteen), shape(x.real.scalar))
    return bits


def transposed(x: Lanes, rows: list[Any]) -> list[Any]:
    """The transposed of a square of vectors: in step 1, 2, 4 …, pairs of rows exchange lanes that far apart."""
    b, lanes, rows, step = x.b, x.real.lanes, list(rows), 1
    kind = ir.VectorType(I32, lanes)
    while step < lanes:
        for i in range(lanes):
            if not i & step:
                upper = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
                lower = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
                one, other = rows[i], rows[i + step]
                rows[i] = b.shuffle_vector(one, other, ir.Constant(kind, upper))
                rows[i + step] = b.shuffle_vector(one, other, ir.Constant(kind, lower))
        step *= 2
    return rows


def row_place(x: Lanes, r: Any, by_map: Any, by_position: Any, maps: Any) -> Any:
    """Where row r of a tile lies, in bytes from its first row: the row of map r % maps at position r // maps."""
    b = x.b
    return b.add(x.times(b.urem(r, maps), by_map), x.times(b.udiv(r, maps), by_position))


@micro_kernel("at* by_map by_position step rows maps width out* factor.", stored=True)
def pack(
    x: Lanes, at: Any, by_map: Any, by_position: Any, step: Any, rows: Any, maps: Any, width: Any, out: Any,
    factor: Any, storage: Any,
) -> None:  # fmt: skip
    """Turn the rows of a tile into panels: number i of row r, times `factor`, goes to line i, to the lane of r.

    Row r is that of map r % maps at position r // maps; its numbers are `step` bytes apart. Where they are adjacent,
    squares of numbers are turned in registers. Lanes past the last row repeat it.
    """
    b, lanes, size = x.b, x.real.lanes, stored_bytes(x, storage)
    factors, last = x.splat(factor), b.sub(rows, I64(1))
    squares = b.select(b.icmp_signed("==", step, I64(size)), b.sdiv(width, I64(lanes)), I64(0))
    done = x.times(squares, lanes)

    def vector(g: Any) -> None:
        numbers = [x.smaller(b.add(x.times(g, lanes), I64(lane)), last) for lane in range(lanes)]
        places = [x.at(at, row_place(x, r, by_map, by_position, maps)) for r in numbers]
        first = x.at(out, vector_of_panel(x, g, width))

        def square(i: Any) -> None:
            start = x.times(i, lanes)
            loaded = [load_stored(x, x.at(place, x.times(start, size)), storage, lanes) for place in places]
            for n, line in enumerate(transposed(x, loaded)):
                x.store(b.fmul(line, factors), x.at(first, x.times(b.add(start, I64(n)), LINE)))

        def single(i: Any) -> None:
            i = b.add(i, done)
            for lane, place in enumerate(places):
                number = load_stored(x, x.at(place, x.times(i, step)), storage)
                x.store(b.fmul(number, factor), x.at(first, x.times(i, LINE)), lane * x.real.bytes)

        x.for_(squares, square)
        x.for_(b.sub(width, done), single)

    x.for_(x.over(rows, lanes), vector)


def vector_of_panel(x: Lanes, g: Any, lines: Any) -> Any:
    """Where the lanes of vector g begin in panels of `lines` lines, VECTORS vectors each."""
    b = x.b
    panel, vector = b.udiv(g, I64(VECTORS)), b.urem(g, I64(VECTORS))
    return b.add(x.times(x.times(panel, lines), LINE), x.times(vector, VECTOR_BYTES))


@micro_kernel("panels* lines factors* factor_step width at* by_map by_position rows maps nowhere*")
def unpack(
    x: Lanes, panels: Any, lines: Any, factors: Any, factor_step: Any, width: Any, at: Any, by_map: Any,
    by_position: Any, rows: Any, maps: Any, nowhere: Any,
) -> None:  # fmt: skip
    """The way back: number i of row r is line i in the lane of r, times a factor; lanes past the last go `nowhere`.

    Panels have `lines` lines, of which `width` are written. The factors of a vector of rows lie factor_step bytes after
    those of the one before.
    """
    b, lanes, size = x.b, x.real.lanes, x.real.bytes
    squares = b.sdiv(width, I64(lanes))
    done = x.times(squares, lanes)

    def vector(g: Any) -> None:
        places = []
        for lane in range(lanes):
            r = b.add(x.times(g, lanes), I64(lane))
            place = x.at(at, row_place(x, r, by_map, by_position, maps))
            places.append(b.select(b.icmp_signed("<", r, rows), place, nowhere))
        first, factor = x.at(panels, vector_of_panel(x, g, lines)), x.load(factors, x.times(g, factor_step))

        def square(i: Any) -> None:
            start = x.times(i, lanes)
            loaded = [x.load(first, x.times(b.add(start, I64(n)), LINE)) for n in range(lanes)]
            turned = transposed(x, [b.fmul(line, factor) for line in loaded])
            for place, numbers in zip(places, turned, strict=True):
                x.store(numbers, x.at(place, x.times(start, size)))

        def single(i: Any) -> None:
            i = b.add(i, done)
            line = b.fmul(x.load(first, x.times(i, LINE)), factor)
            for lane, place in enumerate(places):
                x.store(b.extract_element(line, I32(lane)), x.at(place, x.times(i, size)))

        x.for_(squares, square)
        x.for_(b.sub(width, done), single)

    x.for_(x.over(rows, lanes), vector)


@micro_kernel("at* by_map by_position step rows maps width out* out_step factor.", stored=True)
def copy(
    x: Lanes, at: Any, by_map: Any, by_position: Any, step: Any, rows: Any, maps: Any, width: Any, out: Any,
    out_step: Any, factor: Any, storage: Any,
) -> None:  # fmt: skip
    """Copy the rows of a tile, widened and times `factor`, to rows out_step bytes apart; arguments as of `pack`."""
    b, lanes, size = x.b, x.real.lanes, stored_bytes(x, storage)
    factors = x.splat(factor)
    vectors = b.select(b.icmp_signed("==", step, I64(size)), b.sdiv(width, I64(lanes)), I64(0))
    done = x.times(vectors, lanes)

    def row(r: Any) -> None:
        source, target = x.at(at, row_place(x, r, by_map, by_position, maps)), x.at(out, x.times(r, out_step))

        def vector(i: Any) -> None:
            numbers = load_stored(x, x.at(source, x.times(i, lanes * size)), storage, lanes)
            x.store(b.fmul(numbers, factors), x.at(target, x.times(i, VECTOR_BYTES)))

        def single(i: Any) -> None:
            i = b.add(i, done)
            number = load_stored(x, x.at(source, x.times(i, step)), storage)
            x.store(b.fmul(number, factor), x.at(target, x.times(i, x.real.bytes)))

        x.for_(vectors, vector)
        x.for_(b.sub(width, done), single)

    x.for_(rows, row)


@micro_kernel("out* count value.")
def fill(x: Lanes, out: Any, count: Any, value: Any) -> None:
    """Set `count` numbers to a value."""
    b, lanes = x.b, x.real.lanes
    values, vectors = x.splat(value), b.sdiv(count, I64(lanes))
    done = x.times(vectors, lanes)
    x.for_(vectors, lambda i: x.store(values, x.at(out, x.times(i, VECTOR_BYTES))))
    x.for_(b.sub(count, done), lambda i: x.store(value, x.at(out, x.times(b.add(i, done), x.real.bytes))))


@micro_kernel("out* rows maps padded stands length")
def last_keys(x: Lanes, out: Any, rows: Any, maps: Any, padded: Any, stands: Any, length: Any) -> None:
    """Write the last key that each row of a tile sees as int32; −1 if it sees none. There are `length` keys.

    The first position sees the keys up to `stands`, and each later position sees one more. Rows past the last, up to
    `padded`, repeat it.
    """
    b = x.b
    end = b.sub(length, I64(1))

    def row(r: Any) -> None:
        position = b.udiv(x.smaller(r, b.sub(rows, I64(1))), maps)
        key = x.smaller(b.add(stands, position), end)
        key = b.select(b.icmp_signed("<", key, I64(-1)), I64(-1), key)
        x.store(b.trunc(key, I32), x.at(out, x.times(r, 4)), align=4)

    x.for_(padded, row)


def sum_lanes(x: Lanes, vector: Any) -> Any:
    """Sum of a vector's lanes: half is added to half, log₂(lanes) times."""
    b, lanes = x.b, vector.type.count
    while lanes > 1:
        lanes //= 2
        kind = ir.VectorType(I32, lanes)
        low, high = (ir.Constant(kind, list(range(first, first + lanes))) for first in (0, lanes))
        vector = b.fadd(b.shuffle_vector(vector, vector, low), b.shuffle_vector(vector, vector, high))
    return b.extract_element(vector, I32(0))


def dot(x: Lanes, one: Any, other: Any, count: Any) -> Any:
    """Σ one[i] · other[i]."""
    b, lanes = x.b, x.real.lanes
    vectors = b.sdiv(count, I64(lanes))
    done = x.times(vectors, lanes)

    def vector(i: Any, sums: list[Any]) -> list[Any]:
        offset = x.times(i, VECTOR_BYTES)
        return [x.fma(x.load(one, offset), x.load(other, offset), sums[0])]

    def single(i: Any, sums: list[Any]) -> list[Any]:
        offset = x.times(b.add(i, done), x.real.bytes)
        return [x.fma(x.load(one, offset, x.real.scalar), x.load(other, offset, x.real.scalar), sums[0])]

    total = sum_lanes(x, x.loop(vectors, [x.constant(0.0)], vector)[0])
    return x.loop(b.sub(count, done), [total], single)[0]


@micro_kernel("dz* line z* by_map by_position dlse* dlse_map dlse_position rows maps padded width m* inverse* delta*")
def deltas(
    x: Lanes, dz: Any, line: Any, z: Any, by_map: Any, by_position: Any, dlse: Any, dlse_map: Any, dlse_position: Any,
    rows: Any, maps: Any, padded: Any, width: Any, m: Any, inverse: Any, delta: Any,
) -> None:  # fmt: skip
    """δ = rowsum(dZ ⊙ Z) − dlse of the rows of a tile; 0 in a row that sees nothing, because lse is constant there.

    Rows past the last, up to `padded`, have its m, so that their weights are finite, and 0 as 1/l and δ.
    """
    b, size, scalar = x.b, x.real.bytes, x.real.scalar
    zero, last = scalar(0.0), x.times(b.sub(rows, I64(1)), size)

    def row(r: Any) -> None:
        place = x.times(r, size)
        x.store(zero, delta, place)

        def some() -> None:
            total = dot(x, x.at(dz, x.times(r, line)), x.at(z, row_place(x, r, by_map, by_position, maps)), width)
            less = x.load(dlse, row_place(x, r, dlse_map, dlse_position, maps), scalar)
            x.store(b.fsub(total, less), delta, place)

        x.if_(b.fcmp_unordered("!=", x.load(inverse, place, scalar), zero), some)  # NaN is not 0

    def none(r: Any) -> None:
        place = x.times(b.add(r, rows), size)
        x.store(x.load(m, last, scalar), m, place)
        x.store(zero, inverse, place)
        x.store(zero, delta, place)

    x.for_(rows, row)
    x.for_(b.sub(padded, rows), none)
