"""The matrix products of a tile, as register tiles: sums that stay in registers while the operands stream past.

Query rows are in the lanes. A *panel* is up to VECTORS vectors of query rows side by side, and a matrix over a panel,
such as Qᵀ (d_k, rows), Sᵀ (keys, rows) or Oᵀ (d_v, rows), is a list of lines of LINE bytes. The products

    Sᵀ[j, :]  = Σ_i K[j, i] · Qᵀ[i, :]        Oᵀ[d, :] += Σ_j V[j, d] · Pᵀ[j, :]

then have one form. A line is loaded as VECTORS vectors, and ROWS numbers of the other operand are broadcast to all
lanes, one by one, from where the caller left them: ROWS × VECTORS multiply–adds for ROWS + VECTORS loads. K and V are
never copied or turned. In the backward, dK and dV have their columns in the lanes, and numbers of Pᵀ are broadcast.

Keys come in groups of ROWS. The last ones of a sequence may be no whole group; they are read from a copy, `tail`, in
which rows of 0 follow them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gta_ref.core.cpu.lanes import (
    I32,
    I64,
    LINE,
    MANY_REGISTERS,
    ROWS,
    VECTOR_BYTES,
    VECTORS,
    Lanes,
    micro_kernel,
)

UNROLL = {1: 2, 2: 2, 3: 4}  # by the vectors of a panel: most panels are full
# keys × vectors of columns of a register tile of dK and dV
SUM_ROWS, SUM_VECTORS = (6, 4) if MANY_REGISTERS else (6, 2)

Tile = list[list[Any]]


def product(
    x: Lanes, a: Any, a_row: Any, a_step: Any, lines: Any, line: Any, count: Any, sums: Tile, unroll: int
) -> Tile:
    """sums[r][v] + Σ_i a[r, i] · lines[i][v] for i below `count`; strides are in bytes, and ints or values."""
    b, rows, vectors = x.b, len(sums), len(sums[0])

    def steps(n: int) -> Any:
        def body(i: Any, flat: list[Any]) -> list[Any]:
            a_i, lines_i = x.at(a, x.times(x.times(i, n), a_step)), x.at(lines, x.times(x.times(i, n), line))
            for u in range(n):
                a_u, lines_u = x.at(a_i, x.times(I64(u), a_step)), x.at(lines_i, x.times(I64(u), line))
                loaded = x.line(lines_u, vectors)
                for r in range(rows):
                    number = x.splat(x.load(a_u, x.times(I64(r), a_row), x.real.scalar))
                    for v in range(vectors):
                        flat[r * vectors + v] = x.fma(number, loaded[v], flat[r * vectors + v])
            return flat

        return body

    flat = [value for row in sums for value in row]
    whole = b.sdiv(count, I64(unroll))
    flat = x.loop(whole, flat, steps(unroll))
    done = x.times(whole, unroll)
    a, lines = x.at(a, x.times(done, a_step)), x.at(lines, x.times(done, line))
    flat = x.loop(b.sub(count, done), flat, steps(1))
    return [flat[r * vectors : (r + 1) * vectors] for r in range(rows)]


def larger(x: Lanes, old: Any, new: Any) -> Any:
    """The larger of two vectors; `old` where one of them is NaN."""
    return x.b.select(x.b.fcmp_ordered(">", new, old), new, old)


def _each(make: Callable[[int], Any]) -> dict[int, Any]:
    """One micro-kernel for each number of vectors that a panel may have."""
    return {vectors: make(vectors) for vectors in range(1, VECTORS + 1)}


def _make_scores(vectors: int) -> Any:
    def build(x: Lanes, k: Any, k_step: Any, q: Any, d: Any, s: Any, top: Any) -> None:
        """Sᵀ of ROWS keys against a panel, and the running maximum of each row, in registers throughout."""
        zeros = [[x.constant(0.0)] * vectors for _ in range(ROWS)]
        sums = product(x, k, k_step, x.real.bytes, q, LINE, d, zeros, UNROLL[vectors])
        best = x.line(top, vectors)
        for r, row in enumerate(sums):
            x.store_line(row, s, r * LINE)
            best = [larger(x, old, new) for old, new in zip(best, row, strict=True)]
        x.store_line(best, top)

    build.__name__ = f"scores_{vectors}"
    return micro_kernel("k* k_step q* d s* top*")(build)


def _make_across(vectors: int) -> Any:
    def build(x: Lanes, v: Any, v_step: Any, p: Any, keys: Any, o: Any) -> None:
        """O[d, :] += Σ_j v[j, d] · p[j, :] for ROWS adjacent columns d."""
        old = [x.line(o, vectors, r * LINE) for r in range(ROWS)]
        for r, row in enumerate(product(x, v, x.real.bytes, v_step, p, LINE, keys, old, UNROLL[vectors])):
            x.store_line(row, o, r * LINE)

    build.__name__ = f"across_{vectors}"
    return micro_kernel("v* v_step p* keys o*")(build)


_scores, _across = _each(_make_scores), _each(_make_across)


@micro_kernel("s* last* key keys vectors top*")
def hide(x: Lanes, s: Any, last: Any, key: Any, keys: Any, vectors: Any, top: Any) -> None:
    """Set scores of keys that a row does not see to −inf, and take the maximum of the others.

    `last` has the last key that each row sees, as int32; the lines of `s` belong to the keys `key`, key + 1, …
    """
    b, lanes = x.b, x.real.lanes
    kind = ir.VectorType(I32, lanes)

    def vector(v: Any) -> None:
        first, place = x.at(s, x.times(v, VECTOR_BYTES)), x.times(v, VECTOR_BYTES)
        seen = x.load(last, x.times(v, lanes * 4), kind, 4)

        def line(i: Any, best: list[Any]) -> list[Any]:
            at = x.at(first, x.times(i, LINE))
            visible = b.icmp_signed("<=", x.splat(b.trunc(b.add(key, i), I32)), seen)
            score = b.select(visible, x.load(at), x.constant(float("-inf")))
            x.store(score, at)
            return [larger(x, best[0], score)]

        x.store(x.loop(keys, [x.load(top, place)], line)[0], top, place)

    x.for_(vectors, vector)


@micro_kernel("k* k_step whole tail* tail_step keys q* d s* vectors top*")
def scores(
    x: Lanes, k: Any, k_step: Any, whole: Any, tail: Any, tail_step: Any, keys: Any, q: Any, d: Any, s: Any,
    vectors: Any, top: Any,
) -> None:  # fmt: skip
    """Sᵀ[j, :] = Σ_i K[j, i] · Qᵀ[i, :] of `keys` keys, a multiple of ROWS, and the running maximum of each row.

    The first `whole` keys lie at `k`, the others at `tail`.
    """
    b = x.b

    def panel(n: int) -> None:
        def group(i: Any) -> None:
            j = x.times(i, ROWS)
            here = b.icmp_signed("<", j, whole)
            step = b.select(here, k_step, tail_step)
            rest = x.at(tail, x.times(b.sub(j, whole), tail_step))
            place = b.select(here, x.at(k, x.times(j, k_step)), rest)
            _scores[n].emit(x, place, step, q, d, x.at(s, x.times(j, LINE)), top)

        x.for_(b.sdiv(keys, I64(ROWS)), group)

    x.switch(vectors, VECTORS, panel)


@micro_kernel("v* v_step whole tail* tail_step keys p* o* width vectors")
def across(
    x: Lanes, v: Any, v_step: Any, whole: Any, tail: Any, tail_step: Any, keys: Any, p: Any, o: Any, width: Any,
    vectors: Any,
) -> None:  # fmt: skip
    """Oᵀ[d, :] += Σ_j V[j, d] · Pᵀ[j, :] for `width` columns, a multiple of ROWS; keys as in `scores`."""
    b = x.b
    here = x.smaller(keys, whole)
    rest = b.sub(keys, here)

    def panel(n: int) -> None:
        def columns(i: Any) -> None:
            column, o_i = x.times(i, ROWS * x.real.bytes), x.at(o, x.times(i, ROWS * LINE))
            _across[n].emit(x, x.at(v, column), v_step, p, here, o_i)

            def more() -> None:
                _across[n].emit(x, x.at(tail, column), tail_step, x.at(p, x.times(here, LINE)), rest, o_i)

            x.if_(b.icmp_signed(">", rest, I64(0)), more)

        x.for_(b.sdiv(width, I64(ROWS)), columns)

    x.switch(vectors, VECTORS, panel)


def _make_sum(rows: int, vectors: int) -> Any:
    unroll = 4 if (rows, vectors) == (SUM_ROWS, SUM_VECTORS) else 1  # the others are for what remains

    def build(x: Lanes, a: Any, a_jump: Any, count: Any, lines: Any, line: Any, c: Any) -> None:
        """C[r, :] += Σ_i a[r, i] · lines[i, :]; `a` has panels, a_jump bytes apart, with `count` query rows in all."""
        b, panel = x.b, VECTORS * x.real.lanes
        places = [[x.at(x.at(c, x.times(line, r)), v * VECTOR_BYTES) for v in range(vectors)] for r in range(rows)]
        flat = [place for row in places for place in row]

        def add(i: Any, values: list[Any]) -> list[Any]:
            sums = [values[r * vectors : (r + 1) * vectors] for r in range(rows)]
            first = x.times(i, panel)
            lines_i, some = x.at(lines, x.times(first, line)), x.smaller(b.sub(count, first), panel)
            a_i = x.at(a, x.times(i, a_jump))
            sums = product(x, a_i, LINE, x.real.bytes, lines_i, line, some, sums, unroll)
            return [value for row in sums for value in row]

        for value, place in zip(x.loop(x.over(count, panel), [x.load(p) for p in flat], add), flat, strict=True):
            x.store(value, place)

    build.__name__ = f"sum_{rows}_{vectors}"
    return micro_kernel("a* a_jump count lines* line c*")(build)


_sums = {(rows, vectors): _make_sum(rows, vectors) for rows in (SUM_ROWS, 1) for vectors in (SUM_VECTORS, 1)}


@micro_kernel("a* a_jump count lines* width keys out*")
def add_rows(x: Lanes, a: Any, a_jump: Any, count: Any, lines: Any, width: Any, keys: Any, out: Any) -> None:
    """out[j, :] += Σ_r a[j, r] · lines[r, :] for `keys` keys j; `a` as above, `width` a multiple of the lanes."""
    b, lanes = x.b, x.real.lanes
    line = x.times(width, x.real.bytes)

    def columns(vectors: int, first: Any, number: Any) -> None:
        def column(i: Any) -> None:
            offset = b.add(first, x.times(i, vectors * VECTOR_BYTES))

            def add(rows: int, j: Any) -> None:
                place = x.at(out, b.add(x.times(j, line), offset))
                _sums[rows, vectors].emit(x, x.at(a, x.times(j, LINE)), a_jump, count, x.at(lines, offset), line, place)

            x.for_(whole, lambda j: add(SUM_ROWS, x.times(j, SUM_ROWS)))
            done = x.times(whole, SUM_ROWS)
            x.for_(b.sub(keys, done), lambda j: add(1, b.add(j, done)))

        x.for_(number, column)

    whole = b.sdiv(keys, I64(SUM_ROWS))
    wide = b.sdiv(width, I64(SUM_VECTORS * lanes))
    done = x.times(wide, SUM_VECTORS * VECTOR_BYTES)
    columns(SUM_VECTORS, I64(0), wide)
    columns(1, done, b.sdiv(b.sub(line, done), I64(VECTOR_BYTES)))
