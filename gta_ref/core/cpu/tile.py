"""The steps on one tile that forward and backward share: loading rows, and softmax with a running maximum.

Numba compiles these into the kernels that call them. Scores are held in units of log₂: with
c = scale · log₂e, exp(scale · s) = 2^(c·s). The row's number m is what is subtracted there, l the sum:

    P_j = 2^(c·s_j − m)      l = Σ_j P_j      lse = m · ln 2 + ln l
"""

# Numba compiles these functions: types are inferred, and a docstring would not show in any interface
# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np

from gta_ref.core.cpu.compiling import FLAGS, inlined
from gta_ref.core.cpu.llvm import exp2, from_ordered, to_ordered, widen

# A running maximum may be passed by this many powers of two before sums are rescaled. The result is the same,
# as m only has to be near the maximum; and after the first tile of a row rescaling becomes rare.
SLACK = 8.0
LOG2E = 1 / math.log(2)
LN2 = math.log(2)
LINE = 16  # loops over a tile's row run in full steps of this; what is past the row holds −inf


@inlined()
def carve(work, start, rows, width):
    """A matrix (rows, width) of scratch memory from `start` on, and where the next may start: a full step on."""
    stop = start + rows * width
    return work[start:stop].reshape(rows, width), (stop + LINE - 1) // LINE * LINE


@inlined()
def load_rows(out, x, first, stop):
    """Copy rows of x (N, width) into out (≥ stop − first, width), widened."""
    for i in range(first, stop):
        for j in range(x.shape[1]):
            out[i - first, j] = widen(x[i, j])


@inlined()
def load_maps(out, x, map_, maps, first, stop):
    """Copy rows of `maps` maps of x (n, N, width) into out, position by position: row (i − first) · maps + m."""
    for i in range(first, stop):
        for m in range(maps):
            row = out[(i - first) * maps + m]
            for j in range(x.shape[2]):
                row[j] = widen(x[map_ + m, i, j])


@inlined()
def store_maps(x, tile, map_, maps, first, stop):
    """Copy rows of a tile back to their places in x (n, N, width): what load_maps does, the other way."""
    for i in range(first, stop):
        for m in range(maps):
            row = tile[(i - first) * maps + m]
            for j in range(x.shape[2]):
                x[map_ + m, i, j] = row[j]


@inlined(fastmath=FLAGS)
def row_max(row, n):
    """The largest of the first n numbers; of numbers with a NaN among them, NaN or any of them."""
    top = to_ordered(row.dtype.type(-np.inf))
    for j in range(n):
        top = max(top, to_ordered(row[j]))
    return from_ordered(top)


@inlined(fastmath=FLAGS)
def row_exp(row, n, c, m):
    """Replace s by 2^(c·s − m) in the first n numbers; their sum."""
    total = row.dtype.type(0)
    for j in range(n):
        p = exp2(row[j], c, m)
        row[j] = p
        total += p
    return total


@inlined()
def hide(row, seen, width):
    """Make −inf of what the row does not see and of what lies past it up to a full step; that length."""
    full = (width + LINE - 1) // LINE * LINE
    for j in range(seen, full):
        row[j] = -np.inf
    return full


@inlined(fastmath=FLAGS)
def softmax_tile(s, rows, width, sees, maps, c, m, total, o):
    """One step of the online softmax on the scores s (rows, ≥ width) of a tile, in place.

    Where a row's maximum passes its m by more than SLACK, m moves there, and what has been summed shrinks by
    2^(old m − new m): the total, and o, the row of P V.

    Parameters
    ----------
    sees : int
        Keys of the tile that the first position sees; each later position sees one more.
    m, total : (rows,)
    o : (rows, d_v)
    """
    zero, lowest = c * 0, s.dtype.type(-np.inf)
    slack = s.dtype.type(SLACK)
    for r in range(rows):
        row = s[r]
        full = hide(row, min(width, sees + r // maps), width)
        top = row_max(row, full) * c
        old = m[r]
        if top > old + slack:
            m[r] = top
            shrink = exp2(old, c * 0 + 1, top)
            total[r] *= shrink
            for j in range(o.shape[1]):
                o[r, j] *= shrink
        # a row that has seen nothing subtracts 0: −inf − −inf is NaN
        total[r] += row_exp(row, full, c, zero if m[r] == lowest else m[r])


@inlined(fastmath=FLAGS)
def gradient_tile(s, dp, rows, width, sees, maps, c, m, inverse, delta):
    """Turn scores s into the map P, and dp, the gradient by P, into the gradient by scaled scores; in place.

        P = 2^(c·s − m) / l        dS = P ⊙ (dP − δ)

    Parameters
    ----------
    m, inverse, delta : (rows,)
        `inverse` is 1/l, and 0 in a row that sees nothing.
    """
    zero = c * 0
    for r in range(rows):
        row, drow = s[r], dp[r]
        seen = min(width, sees + r // maps)
        if seen <= 0 or inverse[r] == zero:
            for j in range(width):
                row[j] = zero
                drow[j] = zero
            continue
        full = hide(row, seen, width)
        for j in range(width, full):
            drow[j] = zero
        for j in range(full):
            p = exp2(row[j], c, m[r]) * inverse[r]
            row[j] = p
            drow[j] = p * (drow[j] - delta[r])
