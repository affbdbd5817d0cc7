"""The two products of a tile with only a few rows, for which BLAS would spend most of its time on packing.

Decoding reads every key and value once for all maps of a token, which are 5 rows in GTA-1B. All rows are multiplied by
a tile together, so that reading memory is the limit.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from gta_ref.core.cpu.compiling import inlined
from gta_ref.core.cpu.vectors import BLOCK, MAX_ROWS, VECTOR_BYTES, make_context, make_scores

_SPAN = 16  # value rows that are processed in all columns before the next rows, so that whole rows are fetched

# a block of several keys or columns serves most, narrow ones the rest
_dots_1, _dots_2, _dots_3, _dots_4, _dots_5 = (make_scores(rows, BLOCK) for rows in range(1, 6))
_dot_1, _dot_2, _dot_3, _dot_4, _dot_5 = (make_scores(rows, 1) for rows in range(1, 6))


_wide_1, _wide_2, _wide_3, _wide_4, _wide_5 = (make_context(rows, BLOCK) for rows in range(1, 6))
_thin_1, _thin_2, _thin_3, _thin_4, _thin_5 = (make_context(rows, 0) for rows in range(1, 6))


@inlined()
def _scores_block(rows, q, k, k_step, width, s, s_step, like, real):
    if rows == 5:
        _dots_5(q, k, k_step, width, s, s_step, like, real)
    elif rows == 4:
        _dots_4(q, k, k_step, width, s, s_step, like, real)
    elif rows == 3:
        _dots_3(q, k, k_step, width, s, s_step, like, real)
    elif rows == 2:
        _dots_2(q, k, k_step, width, s, s_step, like, real)
    else:
        _dots_1(q, k, k_step, width, s, s_step, like, real)


@inlined()
def _scores_key(rows, q, k, k_step, width, s, s_step, like, real):
    if rows == 5:
        _dot_5(q, k, k_step, width, s, s_step, like, real)
    elif rows == 4:
        _dot_4(q, k, k_step, width, s, s_step, like, real)
    elif rows == 3:
        _dot_3(q, k, k_step, width, s, s_step, like, real)
    elif rows == 2:
        _dot_2(q, k, k_step, width, s, s_step, like, real)
    else:
        _dot_1(q, k, k_step, width, s, s_step, like, real)


@inlined()
def _context_block(rows, p, p_step, v, v_step, keys, o, o_step, like, real):
    if rows == 5:
        _wide_5(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 4:
        _wide_4(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 3:
        _wide_3(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 2:
        _wide_2(p, p_step, v, v_step, keys, o, o_step, like, real)
    else:
        _wide_1(p, p_step, v, v_step, keys, o, o_step, like, real)


@inlined()
def _context_column(rows, p, p_step, v, v_step, keys, o, o_step, like, real):
    if rows == 5:
        _thin_5(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 4:
        _thin_4(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 3:
        _thin_3(p, p_step, v, v_step, keys, o, o_step, like, real)
    elif rows == 2:
        _thin_2(p, p_step, v, v_step, keys, o, o_step, like, real)
    else:
        _thin_1(p, p_step, v, v_step, keys, o, o_step, like, real)


@inlined()
def row_scores(q, k, k_step, keys, s, like):
    """Write Q Kᵀ to the first columns of s.

    Parameters
    ----------
    q : (rows, width), packed
    k, k_step : address of the first key row, bytes from one row to the next; the numbers of a row are adjacent
    keys : int
    s : (rows, at least keys), packed
    like : an array of the storage type of k
    """
    real, (rows, width), size = q.dtype.type(0), q.shape, q.itemsize
    q_at, s_at, s_step = q.ctypes.data, s.ctypes.data, s.shape[1] * size
    blocked = keys - keys % BLOCK
    first = 0
    while first < rows:
        count = min(MAX_ROWS, rows - first)
        q_block, s_block = q_at + first * width * size, s_at + first * s_step
        for j in range(0, blocked, BLOCK):
            _scores_block(count, q_block, k + j * k_step, k_step, width, s_block + j * size, s_step, like, real)
        for j in range(blocked, keys):
            _scores_key(count, q_block, k + j * k_step, k_step, width, s_block + j * size, s_step, like, real)
        first += count


@inlined()
def row_context(p, v, v_step, keys, o, like):
    """Add P V to o.

    Parameters
    ----------
    p : (rows, at least keys), packed
    v, v_step : address of the first value row, bytes from one row to the next; the numbers of a row are adjacent
    keys : int
    o : (rows, width), packed
    like : an array of the storage type of v
    """
    real, (rows, width), size = o.dtype.type(0), o.shape, o.itemsize
    p_at, p_step, o_at, o_step = p.ctypes.data, p.shape[1] * size, o.ctypes.data, width * size
    block = BLOCK * VECTOR_BYTES // size  # columns
    blocked = width - width % block
    first = 0
    while first < rows:
        count = min(MAX_ROWS, rows - first)
        p_block, o_block = p_at + first * p_step, o_at + first * o_step
        for j in range(0, keys, _SPAN):
            span, p_span, v_span = min(_SPAN, keys - j), p_block + j * size, v + j * v_step
            for i in range(0, blocked, block):
                v_block = v_span + i * like.itemsize
                _context_block(count, p_span, p_step, v_block, v_step, span, o_block + i * size, o_step, like, real)
        for i in range(blocked, width):
            column = v + i * like.itemsize
            _context_column(count, p_block, p_step, column, v_step, keys, o_block + i * size, o_step, like, real)
        first += count
