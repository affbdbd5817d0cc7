"""Cases for the engine "numba", which cross the borders of its tiles, and how exact its results must be.

An error may be TIMES as large as that of "reference" in float32, which also rounds after every step but adds in another
order; for float64, that error is scaled down by the ratio of the precisions. In addition, ROUNDINGS of the largest term
are allowed, because dP − δ is a difference of two sums of products dz·v here, while "reference" subtracts numbers that
share their rounding.
"""

import numpy as np

from gta_ref.core import Mask
from tests.support import both_passes

TIMES, ROUNDINGS = 4, 8


def errors(arrays, mask=None, scale=None):
    """The largest error of each result, that of "reference" in float32, and the largest term of the result's sums."""
    got = both_passes(arrays, mask, scale=scale)
    exact = both_passes(arrays, mask, "reference", np.float64, scale)
    single = [x.astype(np.float32) for x in arrays]
    plain = both_passes(single, mask, "reference", scale=scale)
    rounded = both_passes(single, mask, "reference", np.float64, scale)
    q, k, v, dz, dlse = (np.abs(x.astype(np.float64)).max(initial=0) for x in arrays)
    d_k, d_v = arrays[0].shape[3], arrays[2].shape[3]
    row = (d_v * dz * v + dlse) * (scale or d_k**-0.5)
    eps = np.finfo(got[1].dtype).eps
    names, terms = ("z", "lse", "dq", "dk", "dv"), (v, 1, row * k, row * q, dz)
    found = {}
    for name, x, p, r, e, largest in zip(names, got, plain, rounded, exact, terms, strict=True):
        assert x.dtype == (arrays[4] if name == "lse" else arrays[0]).dtype, name
        assert x.shape == e.shape, name
        finite = np.isfinite(e)
        np.testing.assert_array_equal(x[~finite], e[~finite], err_msg=name)
        error = np.abs(x[finite] - e[finite]).max(initial=0)
        known = np.abs(p[finite] - r[finite]).max(initial=0) * (eps / np.finfo(np.float32).eps)
        found[name] = error, known, ROUNDINGS * eps * largest
    return found


def assert_right(arrays, mask=None, scale=None):
    for name, (error, known, roundings) in errors(arrays, mask, scale).items():
        assert error <= TIMES * known + roundings, f"{name}: {error:.1e}, reference {known:.1e}"


# A query tile has 480 rows, 96 positions with 5 maps; key tiles have 128 and 96 keys, in groups of 8; a panel has 48 rows
# of float32. Up to 12 rows stay rows, and a chunk has 2048 keys. Of float64 and with AVX2, panels are smaller.
CASES = {
    "one key": ((1, 2, 1, 1, 1, 1, 7, 9), None),
    "a tile and a row": ((1, 5, 1, 1, 97, 97, 64, 128), None),
    "a key less than a tile": ((2, 4, 2, 1, 40, 127, 24, 33), None),
    "a tile of keys": ((2, 4, 2, 1, 40, 128, 24, 33), None),
    "a key more than a tile": ((2, 4, 2, 1, 40, 129, 24, 33), None),
    "many tiles": ((1, 5, 1, 1, 300, 300, 64, 128), None),
    "n_k and n_v divide apart": ((2, 6, 2, 3, 65, 129, 16, 20), None),
    "12 rows": ((2, 4, 1, 1, 3, 300, 16, 20), None),
    "13 rows": ((1, 13, 1, 1, 1, 300, 16, 20), None),
    "17 rows": ((1, 17, 1, 1, 1, 70, 16, 20), None),
    "33 rows": ((1, 11, 1, 1, 3, 70, 24, 40), None),
    "a panel": ((1, 4, 1, 1, 12, 100, 32, 64), None),
    "a panel and a row": ((1, 7, 1, 1, 7, 100, 32, 72), None),
    "width 1": ((1, 2, 1, 2, 30, 30, 1, 1), None),
    "d_v 0": ((1, 2, 1, 1, 5, 5, 4, 0), None),
    "decode": ((3, 5, 1, 1, 1, 63, 64, 128), None),
    "decode, odd widths": ((2, 7, 7, 1, 1, 130, 17, 35), None),
    "chunks": ((2, 5, 1, 1, 1, 4100, 64, 128), None),
    "a chunk and a key": ((1, 20, 5, 5, 2, 2049, 64, 64), None),
    "chunks of many rows": ((1, 5, 1, 1, 20, 4100, 16, 16), None),
    "ragged chunks": ((4, 2, 1, 1, 1, 5000, 8, 8), Mask(k_start=[0, 4000, 1, 9], k_stop=[5000, 4500, 0, 2058])),
    "rows blind in a chunk": ((1, 2, 1, 1, 4, 4200, 8, 8), Mask(q_start=2046)),
    "both ends": ((2, 6, 2, 3, 65, 300, 16, 20), Mask(causal=False, k_start=[5, 0], k_stop=[290, 0])),
    "blind rows": (
        (3, 4, 1, 1, 65, 129, 16, 20),
        Mask(q_start=[-30, 70, -65], k_start=[5, 0, 0], k_stop=[90, 129, 129]),
    ),
    "no queries": ((2, 4, 2, 1, 0, 5, 7, 9), None),
    "no keys": ((2, 4, 2, 1, 5, 0, 7, 9), None),
    "no sequences": ((0, 4, 2, 1, 5, 5, 7, 9), None),
}
