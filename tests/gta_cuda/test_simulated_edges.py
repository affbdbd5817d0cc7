"""More of the kernels in Numba's simulator: cases that mutants of the kernels led to, which no other test had found."""

import numpy as np
import pytest

from gta_cuda import forward_bf16, ladder, launch
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_forward
from tests.gta_cuda.simulated import BFLOAT16, TILE, assert_rounded, make


@pytest.mark.parametrize("mask", [Mask(q_start=-9), Mask(k_start=8), Mask(causal=False, k_stop=0)], ids=str)
def test_a_block_that_sees_no_key_waits_for_its_queries(mask, watch, rng):
    """Its loop makes no step, and the queries that it has asked for must have arrived before it ends."""
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 3, 4), (1, 1, 8, 4), (1, 1, 8, 4)))
    z, lse = launch.forward(q, k, v, mask, 0.5, TILE)
    assert not z.any()
    assert np.isneginf(lse).all()


@pytest.mark.parametrize("step", ladder.FIRST)
def test_first_steps_with_several_key_and_value_heads(step, rng):
    """Each map reads its own key head and its own value head; the kernels' strides of both matter then."""
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 3, 4), (2, 2, 5, 4), (2, 3, 5, 6)))
    measures = {"threads": 4} if step == "naive" else {"threads": 4, "keys": 4}
    z, lse = ladder.run_first(step, q, k, v, Mask(), 0.4, **measures)
    want_z, want_lse, _ = attention_forward(*(x.astype(np.float64) for x in (q, k, v)), scale=0.4, engine="reference")
    np.testing.assert_allclose(z, want_z, rtol=0, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [(16, 32), (16, 96, 1, 2)], ids=str)
def test_tensor_cores_with_several_products_a_step(tile, watch, rng):
    """A group of warps takes 32 or 48 keys per step, as on a GPU; a product has 16."""
    inputs, mask = make(((1, 1, 1, 1, 9, 75, 16, 16), Mask(q_start=60, k_start=1)), BFLOAT16, rng)
    z, _ = launch.forward_bf16(*inputs, mask, 0.6, forward_bf16.Tile(*tile))
    assert_rounded(z, inputs, mask, 0.6)


def test_more_threads_than_numbers_in_a_tile(watch, rng):
    """With heads of width 4 and 32 threads, a tile of 8 rows has one 16-byte copy for every fourth thread."""
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 9, 4), (1, 1, 11, 4), (1, 1, 11, 4)))
    z, lse = launch.forward(q, k, v, Mask(), 0.5, Tile(rows=8, columns=8, groups=8, height=2))
    want_z, want_lse, _ = attention_forward(*(x.astype(np.float64) for x in (q, k, v)), scale=0.5, engine="reference")
    np.testing.assert_allclose(z, want_z, rtol=0, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=0, atol=1e-5)
