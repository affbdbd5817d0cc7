"""Softmax of a panel: its rows are in the lanes, so maximum, sum and exponential have no step across lanes.

Scores are held in units of log₂ times a power of two, `unit`: exp(score) = 2^(unit · s). The factor with which Q is
packed is then at most 1/2 of what would overflow where the scores themselves do not. unit · (s − m) is exact up to the
rounding of s − m, so the row's largest score has the weight 1, however large it is. For each row, m is the number that
is subtracted, and l is the sum:

    P_j = 2^(unit · (s_j − m))      l = Σ_j P_j      lse = m · unit · ln 2 + ln l
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from gta_ref.core.cpu.lanes import I64, LINE, ROWS, VECTOR_BYTES, Lanes, micro_kernel

# Scores may exceed m by this many powers of two before the sums are rescaled. The result is the same, because m only
# has to be near the maximum. After the first tile of a row, rescaling is rare.
SLACK = 8.0

# Coefficients of 2^r on [−½, ½], constant first. f32: the best polynomial of degree 6, with a relative error of at most
# 2e-9; f64: the Taylor polynomial of degree 13, with at most 4e-18. The weight of a row's largest score is exactly 1.
EXP2 = {
    "f32": (
        1.0000000005926,
        0.69314714841861,
        0.24022646203031,
        0.055503324725646,
        0.0096184373576168,
        0.0013399744089213,
        0.00015344279060889,
    ),
    "f64": tuple(math.log(2) ** i / math.factorial(i) for i in range(14)),
}


def exp2(x: Lanes, d: Any, unit: Any) -> Any:
    """2^(unit · d) of a vector with an error of about 1 ulp; 0 below 2^(2 − bias), NaN of NaN.

    Adding 1.5 · 2^mantissa rounds y = unit · d to a whole number n and leaves n in the low bits of the sum. A shift
    turns these bits into the exponent of 2^n. Then 2^y = 2^n · p(y − n).
    """
    b, real = x.b, x.real
    magic = 1.5 * 2.0**real.mantissa + real.bias
    shifted = x.fma(d, unit, x.constant(magic))
    minus_n = b.fsub(x.constant(magic), shifted)
    r = x.fma(d, unit, minus_n)
    coefficients = EXP2[real.name]
    value = x.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = x.fma(value, r, x.constant(coefficient))
    shift = ir.Constant(ir.VectorType(real.whole, real.lanes), [real.mantissa] * real.lanes)
    power = b.bitcast(b.shl(x.same_size(shifted), shift), real.vector)
    tiny = b.fcmp_ordered("<", shifted, x.constant(magic + 2 - real.bias))  # false for NaN, which is returned
    return b.select(tiny, x.constant(0.0), b.fmul(value, power))


@micro_kernel("top* m* l* o* lines vectors unit. slack.")
def raise_max(x: Lanes, top: Any, m: Any, l: Any, o: Any, lines: Any, vectors: Any, unit: Any, slack: Any) -> None:  # noqa: E741
    """Where a row's maximum exceeds its m by more than `slack`, make it the new m; shrink l and the lines of O."""
    b, whole = x.b, ir.IntType(x.real.lanes)

    def vector(v: Any) -> None:
        place = x.times(v, VECTOR_BYTES)
        new, old = x.load(top, place), x.load(m, place)
        above = b.fcmp_ordered(">", new, b.fadd(old, x.splat(slack)))

        def shrink_all() -> None:
            raised = b.select(above, new, old)
            shrink = exp2(x, b.fsub(old, raised), x.splat(unit))
            x.store(raised, m, place)
            x.store(b.fmul(x.load(l, place), shrink), l, place)

            def line(i: Any) -> None:
                at = x.at(o, b.add(x.times(i, LINE), place))
                x.store(b.fmul(x.load(at), shrink), at)

            x.for_(lines, line)

        x.if_(b.icmp_unsigned("!=", b.bitcast(above, whole), whole(0)), shrink_all)

    x.for_(vectors, vector)


@micro_kernel("s* keys m* l* vectors unit.")
def weights(x: Lanes, s: Any, keys: Any, m: Any, l: Any, vectors: Any, unit: Any) -> None:  # noqa: E741
    """Sᵀ becomes Pᵀ in place, and each row's sum is added to l. `keys` is a multiple of ROWS."""
    b, units = x.b, x.splat(unit)

    def vector(v: Any) -> None:
        place = x.times(v, VECTOR_BYTES)
        old, first = x.load(m, place), x.at(s, place)

        def lines(i: Any, totals: list[Any]) -> list[Any]:
            at = x.at(first, x.times(i, ROWS * LINE))
            for u in range(ROWS):
                p = exp2(x, b.fsub(x.load(at, u * LINE), old), units)
                x.store(p, at, u * LINE)
                totals[u % len(totals)] = b.fadd(totals[u % len(totals)], p)
            return totals

        start = [x.load(l, place), x.constant(0.0)]
        x.store(b.fadd(*x.loop(b.sdiv(keys, I64(ROWS)), start, lines)), l, place)

    x.for_(vectors, vector)


@micro_kernel("s* dp* keys m* inverse* delta* vectors unit.")
def gradient(x: Lanes, s: Any, dp: Any, keys: Any, m: Any, inverse: Any, delta: Any, vectors: Any, unit: Any) -> None:
    """Sᵀ becomes Pᵀ = 2^(unit · (s − m)) / l, and dPᵀ becomes dSᵀ = P ⊙ (dP − δ), in place; `keys` as above."""
    b, units = x.b, x.splat(unit)

    def vector(v: Any) -> None:
        place = x.times(v, VECTOR_BYTES)
        old, factor, less = x.load(m, place), x.load(inverse, place), x.load(delta, place)

        def lines(i: Any) -> None:
            offset = b.add(x.times(i, ROWS * LINE), place)
            s_i, dp_i = x.at(s, offset), x.at(dp, offset)
            for u in range(ROWS):
                p = b.fmul(exp2(x, b.fsub(x.load(s_i, u * LINE), old), units), factor)
                x.store(p, s_i, u * LINE)
                x.store(b.fmul(p, b.fsub(x.load(dp_i, u * LINE), less)), dp_i, u * LINE)

        x.for_(b.sdiv(keys, I64(ROWS)), lines)

    x.for_(vectors, vector)
