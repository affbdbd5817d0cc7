"""What the tests in Numba's simulator share: small cases and tiles, inputs, and how near a result must be.

A thread of the simulator is a Python thread, so that blocks and cases must be small. All unused slots hold NaN.
"""

import ml_dtypes
import numpy as np

from gta_cuda import forward_bf16
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_forward
from tests.support import unused_is_nan

TILE = Tile(rows=8, columns=8, groups=4, height=4)
TILE_BF16 = forward_bf16.Tile(rows=32, keys=32, height=2, splits=2)  # two warps, which take 16 keys each per step
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask
CASES = {
    # 9 = 8 + 1 queries and 11 = 8 + 3 keys; the widths are not multiples of 4
    "tails, heads differ, causal": ((1, 4, 2, 1, 9, 11, 6, 7), Mask()),
    # sequence 0: rows 0 and 1 see nothing; sequence 1 begins inside a tile; the widths allow 16-byte loads
    "masked rows": ((2, 2, 1, 1, 5, 10, 8, 16), Mask(q_start=[-2, 7], k_start=[0, 3], k_stop=[9, 8])),
    # three slabs of d_k and, for dQ and dK, two parts of it; several groups of columns
    "not causal, wide keys": ((1, 2, 1, 2, 2, 9, 132, 8), Mask(causal=False, k_start=2, k_stop=8)),
    # two parts of d_v; the widths modulo 4 are 2 and 3 above, and 1 here
    "wide values": ((1, 1, 1, 1, 2, 24, 4, 129), Mask()),
}
DECODES = {
    "ragged": ((3, 3, 1, 1, 1, 21, 8, 12), Mask(k_start=[3, 0, 7], k_stop=[21, 0, 9])),
    "two queries, heads differ": ((1, 4, 2, 1, 2, 21, 6, 5), Mask(q_start=-1)),  # the first query sees nothing
    "not causal, more rows than a block has": ((1, 3, 1, 1, 3, 19, 16, 40), Mask(causal=False)),
    # the maxima change from step to step; in sequence 1, the first query sees no key of the last step
    "several steps": ((2, 2, 1, 2, 2, 40, 8, 16), Mask(q_start=[38, 31])),
    "wide heads": ((1, 1, 1, 1, 1, 3, 132, 262), Mask()),  # more columns than a warp reads at a time
    "twelve rows, several steps": ((1, 4, 1, 1, 3, 40, 16, 8), Mask(q_start=30)),  # a block serves 16 in bfloat16
}


def make(case, dtype, rng):
    """Arrays whose unused slots are NaN, and their mask. Later keys are larger, so that a row's maximum changes."""
    (batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v), mask = case
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape) for shape in shapes)
    k *= np.linspace(0.5, 1.5, n_keys)[:, None]
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    unused_is_nan(k, v, mask, n_queries)
    return (q, k, v), mask


def exact(inputs, mask, scale, dtype=np.float64):
    return attention_forward(*(x.astype(dtype) for x in inputs), mask=mask, scale=scale, engine="reference")


def assert_as_close(got, plain, truth):
    """Allow 4 times the distance from float64 of the definition in float32, which sums the same terms in another order.

    8 roundings of the largest value are added, because the definition's error may happen to be nearly 0 in small cases.
    """
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    if finite.any():
        largest = np.abs(truth[finite]).max()
        allowed = 4 * np.abs(plain[finite] - truth[finite]).max() + 8 * np.finfo(np.float32).eps * largest
        assert np.abs(got[finite] - truth[finite]).max() <= allowed


def assert_rounded(z, inputs, mask, scale):
    """Allow for rounding weights and results to bfloat16: a relative error of 2⁻⁸ each, of Σ w |v| and of |z|."""
    q, k, v = inputs
    truth, lse, _ = exact(inputs, mask, scale)
    absolute, _, _ = exact((q, k, np.abs(v)), mask, scale)
    bound = 2.0**-8 * (absolute + np.abs(truth)) * (1 + 2.0**-7) + 1e-5  # plus second-order terms and float32's error
    assert (np.abs(z.astype(np.float64) - truth) <= bound).all()
    assert not z[np.isneginf(lse)].any()
