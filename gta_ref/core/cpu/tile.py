"""The steps on one tile that forward and backward share: loading rows, and softmax with a running maximum.

Numba compiles these functions into the kernels that call them. Scores are expressed in units of log₂: with
c = scale · log₂e, exp(scale · s) = 2^(c·s). For each row, m is the number that is subtracted there, and l is the sum:

    P_j = 2^(c·s_j − m)      l = Σ_j P_j      lse = m · ln 2 + ln l
"""

# Numba infers the types of these functions when it compiles them
# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np

from gta_ref.core.cpu.compiling import FLAGS, inlined
from gta_ref.core.cpu.llvm import exp2, from_ordered, to_ordered, widen

# Scores may exceed m by up to this many powers of two before the sums are rescaled. The result is the same, because m
# only has to be near the maximum. After the first tile of a row, rescaling is rare.
SLACK = 8.0
LOG2E = 1 / math.log(2)
LN2 = math.log(2)
LINE = 16  # loops over a tile's row run in full steps of this length; numbers past the row's end are −inf


@inlined()
def carve(work, start, rows, width):
    """A matrix (rows, width) in scratch memory from `start` on, and the start of the next one, a multiple of LINE."""
    stop = start + rows * width
    return work[start:stop].reshape(rows, width), (stop + LINE - 1) // LINE * LINE


@inlined()
def load_rows(out, x, first, stop):
    """Copy rows first … stop − 1 of x (N, width) into out (≥ stop − first, width), and widen them."""
    for i in range(first, stop):
        for j in range(x.shape[1]):
            out[i - first, j] = widen(x[i, j])


@inlined()
def load_maps(out, x, map_, maps, first, stop):
    """Copy rows of `maps` maps of x (n, N, width) into out, position by position, to row (i − first) · maps + m."""
    for i in range(first, stop):
        for m in range(maps):
            row = out[(i - first) * maps + m]
            for j in range(x.shape[2]):
                row[j] = widen(x[map_ + m, i, j])


@inlined()
def store_maps(x, tile, map_, maps, first, stop):
    """Copy rows of a tile back to their places in x (n, N, width), the inverse of load_maps."""
    for i in range(first, stop):
        for m in range(maps):
            row = tile[(i - first) * maps + m]
            for j in range(x.shape[2]):
                x[map_ + m, i, j] = row[j]


@inlined(fastmath=FLAGS)
def row_max(row, n):
    """The largest of the first n numbers. If one of them is NaN, the result is NaN or any one of them."""
    top = to_ordered(row.dtype.type(-np.inf))
    for j in range(n):
        top = max(top, to_ordered(row[j]))
    return from_ordered(top)


@inlined(fastmath=FLAGS)
def row_exp(row, n, c, m):
    """Replace each of the first n numbers s by 2^(c·s − m), and return the sum of the new ones."""
    total = row.dtype.type(0)
    for j in range(n):
        p = exp2(row[j], c, m)
        row[j] = p
        total += p
    return total


@inlined()
def hide(row, seen, width):
    """Set scores that the row does not see, and the rest up to a full step of LINE, to −inf; return that length."""
    full = (width + LINE - 1) // LINE * LINE
    for j in range(seen, full):
        row[j] = -np.inf
    return full


@inlined(fastmath=FLAGS)
def softmax_tile(s, rows, width, sees, maps, c, m, total, o):
    """One step of the online softmax on the scores s (rows, ≥ width) of a tile, in place.

    If a row's maximum exceeds its m by more than SLACK, the maximum becomes the new m. The sums so far, `total` and the
    row of P V in `o`, are then multiplied by 2^(old m − new m).

    Parameters
    ----------
    sees : int
        Number of keys of the tile that the first position sees; each later position sees one more.
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
    """Replace scores s by the map P, and dp, the gradient by P, by the gradient by the scaled scores, in place.

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
