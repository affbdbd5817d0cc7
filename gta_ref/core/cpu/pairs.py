"""Operands of the matrix units: pairs of bfloat16 numbers in 32 bits, and products of tiles.

Query rows are in the lanes, as in products.py. A line of a panel holds for each row two numbers of the dimension that
the product sums. The products of a tile have one form, in groups of 16 rows of A:

    Sᵀ[j, :]  = Σ_i K[j, 2i … 2i + 1] · Qᵀ[i, :]      Oᵀ[d, :] += Σ_j Vᵀ[d, 2j … 2j + 1] · Pᵀ[j, :]

K is read in place if its rows are whole tiles, and V is turned once per key tile. P is rounded to bfloat16, as it is by
kernels for GPUs; its sum is not.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gta_ref.core.cpu.lanes import I16, I32, I64, LINE, ROWS, VECTOR_BYTES, VECTORS, Lanes, micro_kernel
from gta_ref.core.cpu.matrix_units import PAIRS, TILE_BYTES, TILE_ROWS, A, B, unit
from gta_ref.core.cpu.products import larger
from gta_ref.core.cpu.softmax import exp2
from gta_ref.core.cpu.turning import row_place, transposed, vector_of_panel

NUMBERS = 2 * PAIRS  # of the summed dimension per tile


@micro_kernel("configuration*", stored=True)
def begin(x: Lanes, configuration: Any, storage: Any) -> None:
    """Set the sizes of the tiles."""
    unit(x, storage).begin(configuration)


@micro_kernel("configuration*", stored=True)
def end(x: Lanes, configuration: Any, storage: Any) -> None:
    """Give the tiles back."""
    unit(x, storage).end()


def _make_block(groups: int, vectors: int) -> Any:
    def build(x: Lanes, a: Any, a_step: Any, b: Any, steps: Any, c: Any, first: Any, storage: Any) -> None:
        """C = A · B of `groups` groups of 16 rows of A and `vectors` vectors of B; C += A · B if `first` is 0.

        `a_step` is the number of bytes from one row of A to the next; lines of B and C are LINE bytes apart. There are
        `steps` tiles along the dimension that is summed.
        """
        m, line = unit(x, storage), I64(LINE)
        places = [x.at(c, g * TILE_ROWS * LINE + v * VECTOR_BYTES) for g in range(groups) for v in range(vectors)]

        def zero() -> None:
            for tile in range(len(places)):
                m.zero(tile)

        def load() -> None:
            for tile, place in enumerate(places):
                m.load(tile, place, line)

        x.if_(x.b.icmp_signed("!=", first, I64(0)), zero, load)

        def step(i: Any) -> None:
            a_i, b_i = x.at(a, x.times(i, TILE_BYTES)), x.at(b, x.times(i, PAIRS * LINE))
            for g in range(groups):
                m.load(A, x.at(a_i, x.times(x.times(a_step, TILE_ROWS), g)), a_step)
                for v in range(vectors):
                    m.load(B, x.at(b_i, v * VECTOR_BYTES), line)
                    m.dot(g * vectors + v)

        x.for_(steps, step)
        for tile, place in enumerate(places):
            m.store(tile, place, line)

    build.__name__ = f"block_{groups}_{vectors}"
    return micro_kernel("a* a_step b* steps c* first", stored=True)(build)


_blocks = {(groups, vectors): _make_block(groups, vectors) for groups in (1, 2) for vectors in range(1, VECTORS + 1)}


@micro_kernel("a* a_step b* steps c* groups vectors first", stored=True)
def multiply(
    x: Lanes, a: Any, a_step: Any, b: Any, steps: Any, c: Any, groups: Any, vectors: Any, first: Any, storage: Any
) -> None:
    """C = A · B, or C += A · B if `first` is 0, of `groups` groups of 16 rows of A."""

    def panel(n: int) -> None:
        def block(size: int, group: Any) -> None:
            rows = x.times(group, TILE_ROWS)
            a_i, c_i = x.at(a, x.times(rows, a_step)), x.at(c, x.times(rows, LINE))
            _blocks[size, n].emit(x, a_i, a_step, b, steps, c_i, first, storage=storage)

        twos = x.b.sdiv(groups, I64(2))
        x.for_(twos, lambda i: block(2, x.times(i, 2)))
        done = x.times(twos, 2)
        x.for_(x.b.sub(groups, done), lambda i: block(1, x.b.add(i, done)))

    x.switch(vectors, VECTORS, panel)


@micro_kernel("s* keys vectors top*")
def raise_top(x: Lanes, s: Any, keys: Any, vectors: Any, top: Any) -> None:
    """The running maximum of each row over `keys` lines of scores, a multiple of ROWS."""

    def vector(v: Any) -> None:
        place = x.times(v, VECTOR_BYTES)
        first = x.at(s, place)

        def lines(i: Any, best: list[Any]) -> list[Any]:
            at = x.at(first, x.times(i, ROWS * LINE))
            for u in range(ROWS):
                best[u % 2] = larger(x, best[u % 2], x.load(at, u * LINE))
            return best

        old = x.load(top, place)
        x.store(larger(x, *x.loop(x.b.sdiv(keys, I64(ROWS)), [old, old], lines)), top, place)

    x.for_(vectors, vector)


@micro_kernel("s* keys m* l* vectors unit.")
def weights_in_pairs(x: Lanes, s: Any, keys: Any, m: Any, l: Any, vectors: Any, unit: Any) -> None:  # noqa: E741
    """Two lines of Sᵀ become one of pairs of Pᵀ, in place, and each row's sum is added to l; `keys` as above."""
    b, units = x.b, x.splat(unit)
    kind = ir.VectorType(I32, x.real.lanes)

    def constant(n: int) -> Any:
        return ir.Constant(kind, [n] * x.real.lanes)

    def rounded(p: Any) -> Any:
        """The bits of weights, which are finite and not negative, with the nearest bfloat16 in the upper half."""
        return b.add(x.same_size(p), constant(0x8000))

    def vector(v: Any) -> None:
        place = x.times(v, VECTOR_BYTES)
        old, first = x.load(m, place), x.at(s, place)

        def lines(i: Any, totals: list[Any]) -> list[Any]:
            at, to = x.at(first, x.times(i, ROWS * LINE)), x.at(first, x.times(i, ROWS // 2 * LINE))
            made = [exp2(x, b.fsub(x.load(at, u * LINE), old), units) for u in range(ROWS)]
            for u in range(0, ROWS, 2):
                totals = [b.fadd(total, p) for total, p in zip(totals, made[u : u + 2], strict=True)]
                low = b.lshr(rounded(made[u]), constant(16))
                x.store(b.or_(low, b.and_(rounded(made[u + 1]), constant(0xFFFF0000))), to, u // 2 * LINE)
            return totals

        start = [x.load(l, place), x.constant(0.0)]
        x.store(b.fadd(*x.loop(b.sdiv(keys, I64(ROWS)), start, lines)), l, place)

    x.for_(vectors, vector)


@micro_kernel("at* by_map by_position step rows maps width out* lines")
def pack_pairs(
    x: Lanes, at: Any, by_map: Any, by_position: Any, step: Any, rows: Any, maps: Any, width: Any, out: Any, lines: Any
) -> None:
    """Turn rows of a tile into panels of pairs: numbers 2i and 2i + 1 of row r go to line i, to the lane of r.

    Row r is that of map r % maps at position r // maps; its numbers are `step` bytes apart. A panel has `lines` lines;
    those past the last number are 0. Lanes past the last row repeat it.
    """
    b, lanes = x.b, x.real.lanes
    last, zero = b.sub(rows, I64(1)), I16(0)
    squares = b.select(b.icmp_signed("==", step, I64(2)), b.sdiv(width, I64(2 * lanes)), I64(0))
    done = x.times(squares, lanes)

    def vector(g: Any) -> None:
        numbers = [x.smaller(b.add(x.times(g, lanes), I64(lane)), last) for lane in range(lanes)]
        places = [x.at(at, row_place(x, r, by_map, by_position, maps)) for r in numbers]
        first = x.at(out, vector_of_panel(x, g, lines))

        def square(i: Any) -> None:
            start = x.times(i, lanes)
            loaded = [x.load(place, x.times(start, 4), align=2) for place in places]
            for n, line in enumerate(transposed(x, loaded)):
                x.store(line, x.at(first, x.times(b.add(start, I64(n)), LINE)))

        def single(i: Any) -> None:
            i = b.add(i, done)
            for lane, place in enumerate(places):
                for half in (0, 1):
                    number = b.add(x.times(i, 2), I64(half))
                    here = b.icmp_signed("<", number, width)
                    offset = x.times(b.select(here, number, I64(0)), step)
                    value = b.select(here, x.load(place, offset, I16, 2), zero)
                    x.store(value, x.at(first, x.times(i, LINE)), lane * 4 + half * 2, align=2)

        x.for_(squares, square)
        x.for_(b.sub(lines, done), single)

    x.for_(x.over(rows, lanes), vector)


@micro_kernel("at* by_position step keys width out* line lines")
def copy_rows(
    x: Lanes, at: Any, by_position: Any, step: Any, keys: Any, width: Any, out: Any, line: Any, lines: Any
) -> None:
    """Copy `keys` rows of `width` 16-bit numbers to rows of `line` bytes; the rest of `lines` such rows is 0."""
    b = x.b
    numbers = b.sdiv(line, I64(2))

    def row(r: Any) -> None:
        source, target = x.at(at, x.times(r, by_position)), x.at(out, x.times(r, line))
        some = b.select(b.icmp_signed("<", r, keys), width, I64(0))
        x.for_(some, lambda i: x.store(x.load(source, x.times(i, step), I16, 2), target, x.times(i, 2), align=2))

        def rest(i: Any) -> None:
            x.store(I16(0), target, x.times(b.add(i, some), 2), align=2)

        x.for_(b.sub(numbers, some), rest)

    x.for_(lines, row)


@micro_kernel("at* by_position step keys width out* line lines")
def turn_rows(
    x: Lanes, at: Any, by_position: Any, step: Any, keys: Any, width: Any, out: Any, line: Any, lines: Any
) -> None:
    """out[d, j] = number d of row j, for `lines` rows of `line` bytes; 0 where there is no such key or number.

    Where a row's numbers are adjacent, two rows at a time become pairs, and squares of pairs are turned in registers.
    """
    b, lanes = x.b, x.real.lanes
    narrow, kind = ir.VectorType(I16, lanes), ir.VectorType(I32, lanes)
    sixteen = ir.Constant(kind, [16] * lanes)
    in_squares = b.icmp_signed("==", step, I64(2))
    key_squares = b.select(in_squares, b.sdiv(keys, I64(2 * lanes)), I64(0))
    columns = b.select(in_squares, b.sdiv(width, I64(lanes)), I64(0))
    all_keys, done_keys, done = b.sdiv(line, I64(2)), x.times(key_squares, 2 * lanes), x.times(columns, lanes)

    def key_square(i: Any) -> None:
        first = x.at(at, x.times(x.times(i, 2 * lanes), by_position))

        def column(j: Any) -> None:
            place, pairs = x.at(first, x.times(j, 2 * lanes)), []
            for pair in range(lanes):
                low, high = (
                    b.zext(x.load(place, x.times(by_position, 2 * pair + half), narrow, 2), kind) for half in (0, 1)
                )
                pairs.append(b.bitcast(b.or_(low, b.shl(high, sixteen)), x.real.vector))
            for n, turned in enumerate(transposed(x, pairs)):
                x.store(
                    turned, x.at(out, b.add(x.times(b.add(x.times(j, lanes), I64(n)), line), x.times(i, 4 * lanes)))
                )

        x.for_(columns, column)

    def single(d: Any, j: Any) -> None:
        here = b.and_(b.icmp_signed("<", d, width), b.icmp_signed("<", j, keys))
        offset = b.select(here, b.add(x.times(j, by_position), x.times(d, step)), I64(0))
        value = b.select(here, x.load(at, offset, I16, 2), I16(0))
        x.store(value, out, b.add(x.times(d, line), x.times(j, 2)), align=2)

    def edge(d: Any, first: Any) -> None:
        x.for_(b.sub(all_keys, first), lambda j: single(d, b.add(j, first)))

    x.for_(key_squares, key_square)
    x.for_(done, lambda d: edge(d, done_keys))
    x.for_(b.sub(lines, done), lambda d: edge(b.add(d, done), I64(0)))
