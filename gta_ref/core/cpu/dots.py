"""The steps of a tile with only a few rows, as in decoding: the numbers of a key or value row are in the lanes.

Decoding reads every key and value once for all maps of a token, which are 5 rows in GTA-1B, and reading memory is the
limit. A panel would be nearly empty. Here all rows are multiplied by a block of keys together, with all running sums in
registers; float16 and bfloat16 are widened as they are loaded.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gta_ref.core.cpu.lanes import I32, I64, MANY_REGISTERS, VECTOR_BYTES, VOID, Lanes, micro_kernel
from gta_ref.core.cpu.products import larger
from gta_ref.core.cpu.softmax import exp2
from gta_ref.core.cpu.turning import load_stored, stored_bytes, sum_lanes

# keys, or vectors of a value row, per block: MOST_ROWS × BLOCK sums stay in registers
BLOCK = 4 if MANY_REGISTERS else 2
MOST_ROWS = 5
SPAN = 16  # value rows that are processed in all columns before the next rows, so that whole rows are fetched
# distance of prefetching in bytes; the hardware's own prefetching, page by page, reaches 2/3 of the bandwidth
AHEAD = 16384


def prefetch(x: Lanes, address: Any) -> None:
    """Fetch the cache line AHEAD bytes on, which may lie past the array's end, into the second-level cache."""
    x.call("llvm.prefetch.p0", VOID, x.at(address, AHEAD), I32(0), I32(2), I32(1))


def sums_of(x: Lanes, vectors: list[Any]) -> Any:
    """The sums of the lanes of several vectors (a power of two), side by side in one vector.

    Half of each vector is added to its other half, then a quarter to a quarter, and so on, as in sum_lanes. Two vectors
    that are halved share a vector from then on, so that each step but the last few works on whole vectors.
    """
    b, n = x.b, len(vectors)
    segment = x.real.lanes  # lanes of a vector that belong to one sum
    while segment > 1:
        segment //= 2
        pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        held = (x.real.lanes if len(vectors) > 1 else n * segment) // segment
        low = [start * 2 * segment + i for start in range(held) for i in range(segment)]
        kind = ir.VectorType(I32, len(low))
        halves = (ir.Constant(kind, low), ir.Constant(kind, [i + segment for i in low]))
        vectors = [b.fadd(*(b.shuffle_vector(one, other, half) for half in halves)) for one, other in pairs]
    return vectors[0] if n > 1 else b.extract_element(vectors[0], I32(0))


@micro_kernel("q* rows width k* k_step keys s* s_row s_key then* then_step then_lines", stored=True)
def dots(
    x: Lanes, q: Any, rows: Any, width: Any, k: Any, k_step: Any, keys: Any, s: Any, s_row: Any, s_key: Any,
    then: Any, then_step: Any, then_lines: Any, storage: Any,
) -> None:  # fmt: skip
    """s[r, j] = Σ_i q[r, i] k[j, i] for up to MOST_ROWS rows of q, which lie side by side.

    s_row and s_key are the bytes from one row and from one key to the next. A sum does not depend on the other rows and
    keys of the call. These products wait for arithmetic and the following ones for memory, so a row of then_lines cache
    lines at `then`, where those will read, is prefetched after each block of keys.
    """
    b, lanes, size, stored = x.b, x.real.lanes, x.real.bytes, stored_bytes(x, storage)
    vectors = b.sdiv(width, I64(lanes))
    done = x.times(vectors, lanes)
    q_step = x.times(width, size)

    def block(n: int, keys: int, first_row: Any, first: Any) -> None:
        numbers = [b.add(first_row, I64(r)) for r in range(n)]
        q_rows = [x.at(q, x.times(q_step, r)) for r in numbers]
        k_rows = [x.at(k, x.times(b.add(first, I64(j)), k_step)) for j in range(keys)]

        def vector(i: Any, flat: list[Any]) -> list[Any]:
            places = [x.at(row, x.times(i, lanes * stored)) for row in k_rows]
            for place in places:
                prefetch(x, place)
            loaded = [load_stored(x, place, storage, lanes) for place in places]
            for r in range(n):
                several = x.load(q_rows[r], x.times(i, VECTOR_BYTES))
                for j in range(keys):
                    flat[r * keys + j] = x.fma(several, loaded[j], flat[r * keys + j])
            return flat

        flat = x.loop(vectors, [x.constant(0.0)] * (n * keys), vector)
        sums = []
        for r in range(n):
            found = sums_of(x, flat[r * keys : (r + 1) * keys])
            sums += [b.extract_element(found, I32(j)) for j in range(keys)] if keys > 1 else [found]

        def single(i: Any, sums: list[Any]) -> list[Any]:
            i = b.add(i, done)
            loaded = [load_stored(x, x.at(row, x.times(i, stored)), storage) for row in k_rows]
            for r in range(n):
                number = x.load(q_rows[r], x.times(i, size), x.real.scalar)
                for j in range(keys):
                    sums[r * keys + j] = x.fma(number, loaded[j], sums[r * keys + j])
            return sums

        sums = x.loop(b.sub(width, done), sums, single)
        for r in range(n):
            for j in range(keys):
                place = x.at(x.at(s, x.times(s_row, numbers[r])), x.times(b.add(first, I64(j)), s_key))
                x.store(sums[r * keys + j], place)

    whole = b.sdiv(keys, I64(BLOCK))
    done_keys = x.times(whole, BLOCK)

    def block_of(n: int, i: Any) -> None:
        block(n, BLOCK, I64(0), x.times(i, BLOCK))
        row = x.at(then, x.times(i, then_step))
        x.for_(then_lines, lambda line: prefetch(x, x.at(row, x.times(line, 64))))

    x.switch(rows, MOST_ROWS, lambda n: x.for_(whole, lambda i: block_of(n, i)))
    rest = b.sub(keys, done_keys)
    x.for_(rows, lambda r: x.for_(rest, lambda i: block(1, 1, r, b.add(i, done_keys))))


@micro_kernel("p* p_step rows v* v_step keys o* width", stored=True)
def gather(
    x: Lanes, p: Any, p_step: Any, rows: Any, v: Any, v_step: Any, keys: Any, o: Any, width: Any, storage: Any
) -> None:
    """o[r, :] += Σ_j p[r, j] v[j, :] for up to MOST_ROWS rows of o, which lie side by side."""
    b, lanes, size, stored = x.b, x.real.lanes, x.real.bytes, stored_bytes(x, storage)
    wide, o_step = BLOCK * lanes, x.times(width, size)

    def block(n: int, vectors: int, first_row: Any, first_key: Any, span: Any, column: Any) -> None:
        """Add `span` keys to `vectors` vectors of columns, or to one column if that is 0."""
        count, many = max(vectors, 1), lanes if vectors else 1
        kind = x.real.vector if vectors else x.real.scalar
        numbers = [b.add(first_row, I64(r)) for r in range(n)]
        o_rows = [x.at(x.at(o, x.times(o_step, r)), x.times(column, size)) for r in numbers]
        flat = [x.load(o_rows[r], c * VECTOR_BYTES, kind) for r in range(n) for c in range(count)]

        def key(i: Any, flat: list[Any]) -> list[Any]:
            j = b.add(first_key, i)
            row = x.at(x.at(v, x.times(j, v_step)), x.times(column, stored))
            places = [x.at(row, c * lanes * stored) for c in range(count)]
            if vectors:
                for place in places:
                    prefetch(x, place)
            loaded = [load_stored(x, place, storage, many) for place in places]
            for r in range(n):
                weight = x.load(x.at(p, x.times(p_step, numbers[r])), x.times(j, size), x.real.scalar)
                weight = x.splat(weight) if vectors else weight
                for c in range(count):
                    flat[r * count + c] = x.fma(weight, loaded[c], flat[r * count + c])
            return flat

        flat = x.loop(span, flat, key)
        for r in range(n):
            for c in range(count):
                x.store(flat[r * count + c], o_rows[r], c * VECTOR_BYTES)

    whole = b.sdiv(width, I64(wide))
    done = x.times(whole, wide)

    def span_of(i: Any) -> None:
        first = x.times(i, SPAN)
        span = x.smaller(b.sub(keys, first), SPAN)
        x.switch(
            rows,
            MOST_ROWS,
            lambda n: x.for_(whole, lambda c: block(n, BLOCK, I64(0), first, span, x.times(c, wide))),
        )
        x.for_(rows, lambda r: x.for_(b.sub(width, done), lambda c: block(1, 0, r, first, span, b.add(c, done))))

    x.for_(x.over(keys, SPAN), span_of)


@micro_kernel("s* seen width m* l* o* d_v unit. slack.")
def weigh(x: Lanes, s: Any, seen: Any, width: Any, m: Any, l: Any, o: Any, d_v: Any, unit: Any, slack: Any) -> None:  # noqa: E741
    """One step of the online softmax on the `width` scores of a row, in place; the first `seen` are visible.

    The scores and the row of O in `o` lie at multiples of a vector's length, with room for whole vectors.
    """
    b, lanes, size, scalar = x.b, x.real.lanes, x.real.bytes, x.real.scalar
    minus = scalar(float("-inf"))
    full = b.sdiv(b.add(width, I64(lanes - 1)), I64(lanes))

    def hide(i: Any, _: Any) -> list[Any]:
        x.store(minus, s, x.times(b.add(i, seen), size))
        return []

    x.loop(b.sub(x.times(full, lanes), seen), [], hide)
    tops = x.loop(
        full, [x.constant(x.real.lowest)], lambda i, best: [larger(x, best[0], x.load(s, x.times(i, VECTOR_BYTES)))]
    )
    top = b.extract_element(tops[0], I32(0))
    for lane in range(1, lanes):
        other = b.extract_element(tops[0], I32(lane))
        top = b.select(b.fcmp_ordered(">", other, top), other, top)
    old = x.load(m, 0, scalar)

    def raise_m() -> None:
        shrink = exp2(x, x.splat(b.fsub(old, top)), x.splat(unit))
        x.store(top, m)
        one = b.extract_element(shrink, I32(0))
        x.store(b.fmul(x.load(l, 0, scalar), one), l)

        def number(i: Any, _: Any) -> list[Any]:
            at = x.at(o, x.times(i, size))
            x.store(b.fmul(x.load(at, 0, scalar), one), at)
            return []

        x.loop(d_v, [], number)

    x.if_(b.fcmp_ordered(">", top, b.fadd(old, slack)), raise_m)
    subtracted, units = x.splat(x.load(m, 0, scalar)), x.splat(unit)

    def weights(i: Any, totals: list[Any]) -> list[Any]:
        at = x.at(s, x.times(i, VECTOR_BYTES))
        p = exp2(x, b.fsub(x.load(at), subtracted), units)
        x.store(p, at)
        return [b.fadd(totals[0], p)]

    total = sum_lanes(x, x.loop(full, [x.constant(0.0)], weights)[0])
    x.store(b.fadd(x.load(l, 0, scalar), total), l)
