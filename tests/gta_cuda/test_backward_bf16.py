"""The bfloat16 backward on tensor cores in Numba's simulator, against float64. `make test-cudasim` runs this file."""

import numpy as np
import pytest

from gta_cuda import backward_bf16, backward_bf16_queries, launch
from gta_cuda.backward_parts import share
from gta_ref.core import Mask, attention_backward, attention_forward
from tests.gta_cuda.simulated import BFLOAT16
from tests.support import unused_is_nan

TILE_K = backward_bf16.Tile(rows=32, queries=16, chunk=16)  # two warps
TILE_Q = backward_bf16_queries.Tile(rows=32, keys=16, chunk=16, height=1)  # two warps
TALL_Q = backward_bf16_queries.Tile(rows=32, keys=32, chunk=16, height=2)  # one warp

# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask, parts
CASES = {
    # two runs per key head, and rows that are not multiples of 16 bytes
    "tails, heads differ, causal": ((1, 4, 2, 1, 9, 11, 6, 7), Mask(), (1, 2)),
    # sequence 0: rows 0 and 1 see nothing; sequence 1 begins inside a tile; the widths allow 16-byte copies
    "masked rows": ((2, 2, 1, 1, 5, 10, 8, 16), Mask(q_start=[-2, 7], k_start=[0, 3], k_stop=[9, 8]), (1, 1)),
    # d_k above d_v
    "not causal": ((1, 2, 1, 2, 2, 9, 40, 8), Mask(causal=False, k_start=2, k_stop=8), (2, 3)),
    # several steps, blocks of keys and of queries; sequences that see everything, little and nothing
    "several tiles": ((3, 2, 1, 1, 35, 37, 16, 8), Mask(q_start=[19, -10, -35]), (2, 3)),
    "an odd width": ((1, 1, 1, 1, 2, 24, 4, 33), Mask(), (1, 1)),
    # every number of every operand of a product matters
    "full fragments": ((1, 1, 1, 1, 16, 16, 16, 16), Mask(causal=False), (1, 1)),
}
TALL = ("masked rows", "several tiles")  # with 32 queries per warp, too
# norm of the error over norm of the result: the map, or its gradient, and the result are rounded to bfloat16, each by up
# to 2⁻⁸ of its size; z, from which delta is computed, has been rounded as well, but in its sum these errors cancel
ERROR = 2.0**-7


pytestmark = pytest.mark.usefixtures("watch")


def make(case, rng):
    """bfloat16 arrays whose unused slots are NaN."""
    (batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v), mask, _ = case
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape).astype(BFLOAT16) for shape in shapes)
    unused_is_nan(k, v, mask, n_queries)
    return q, k, v


def distance(got, truth):
    return np.linalg.norm(got.astype(np.float64) - truth) / max(np.linalg.norm(truth), 1e-3)


@pytest.mark.parametrize(
    "case, tile_q",
    [*((case, TILE_Q) for case in CASES), *((case, TALL_Q) for case in TALL)],
    ids=lambda x: x if isinstance(x, str) else f"{16 * x.height} queries per warp",
)
def test_against_float64(case, tile_q, rng):
    _, mask, parts = CASES[case]
    q, k, v = make(CASES[case], rng)
    scale = 2 * q.shape[3] ** -0.5
    exact = [x.astype(np.float64) for x in (q, k, v)]
    z, lse, saved = attention_forward(*exact, mask=mask, scale=scale, engine="reference")
    dz = rng.standard_normal(z.shape).astype(BFLOAT16)
    dlse = rng.standard_normal(lse.shape).astype(np.float32)
    got = launch.backward_bf16(
        *(q, k, v, z.astype(BFLOAT16), lse.astype(np.float32), dz, dlse, mask, scale), tile_q, TILE_K, parts
    )
    for x, gradient in zip((k, v), got[1:], strict=True):
        assert not gradient[np.isnan(x)].any()
    assert not got[0][np.isneginf(lse)].any()
    for one, truth in zip(got, attention_backward(dz.astype(np.float64), saved, dlse=dlse), strict=True):
        assert one.dtype == BFLOAT16
        assert distance(one, truth) <= ERROR


def test_without_dlse(rng):
    """One step per block; the default of `parts` leaves the simulator's only multiprocessor with whole tiles."""
    q, k, v = make(CASES["tails, heads differ, causal"], rng)
    exact = [x.astype(np.float64) for x in (q, k, v)]
    z, lse, saved = attention_forward(*exact, scale=0.4, engine="reference")
    dz = rng.standard_normal(z.shape).astype(BFLOAT16)
    got = launch.backward_bf16(
        *(q, k, v, z.astype(BFLOAT16), lse.astype(np.float32), dz, None, Mask(), 0.4), TILE_Q, TILE_K
    )
    for one, truth in zip(got, attention_backward(dz.astype(np.float64), saved), strict=True):
        assert distance(one, truth) <= ERROR


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_scores_far_below_zero(rng):
    """exp(−lse) is infinite; keys that do not exist, whose scores would be 0, must not meet it."""
    q, k, v = make(((1, 1, 1, 1, 2, 5, 8, 8), Mask(), None), rng)
    q, k = (q / 8 + 4).astype(BFLOAT16), (k / 8 - 12).astype(BFLOAT16)
    exact = [x.astype(np.float64) for x in (q, k, v)]
    z, lse, saved = attention_forward(*exact, mask=Mask(causal=False), scale=0.4, engine="reference")
    assert lse.max() < -100
    dz = rng.standard_normal(z.shape).astype(BFLOAT16)
    arguments = q, k, v, z.astype(BFLOAT16), lse.astype(np.float32), dz, None, Mask(causal=False), 0.4
    got = launch.backward_bf16(*arguments, TILE_Q, TILE_K)
    assert all(np.isfinite(x.astype(np.float32)).all() for x in got)
    # dQ is a difference of nearly equal keys, and dK one of nearly equal numbers times q
    assert distance(got[2], attention_backward(dz.astype(np.float64), saved)[2]) <= ERROR


def test_how_steps_are_shared():
    """The parts of a tile are consecutive, cover all steps, and differ in length by at most one."""
    for steps, parts in ((0, 3), (2, 3), (7, 3), (9, 3), (80, 17)):
        shares = [share.py_func(steps, part, parts) for part in range(parts)]
        assert [first for first, _ in shares] == [0, *(end for _, end in shares[:-1])]
        assert shares[-1][1] == steps
        assert {end - first for first, end in shares} <= {steps // parts, steps // parts + 1}


def test_how_many_blocks_share_a_tile():
    assert launch.choose_parts(16, 160, 132) == 17  # 272 blocks for 132 places
    assert launch.choose_parts(16, 40, 132) == 10  # four steps each
    assert launch.choose_parts(16, 3, 132) == 1
    assert launch.choose_parts(264, 1000, 132) == 1
    assert launch.choose_parts(1, 10**6, 132) == 64


def test_widths_that_the_registers_hold():
    takes = launch.takes_bf16_backward
    assert [takes(64, 128), takes(128, 128), takes(240, 16), takes(241, 16), takes(64, 256)] == [True] * 3 + [False] * 2
