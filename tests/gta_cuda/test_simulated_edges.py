"""More of the kernels in Numba's simulator: cases that mutants of the kernels led to, which no other test had found."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: pip install --group cuda", allow_module_level=True)

from gta_cuda import launch
from gta_cuda.tiles import Tile
from gta_ref.core import Mask
from tests.gta_cuda.watched import Watch

TILE = Tile(rows=8, columns=8, groups=4, height=4)


@pytest.mark.parametrize("mask", [Mask(q_start=-9), Mask(k_start=8), Mask(causal=False, k_stop=0)], ids=str)
def test_a_block_that_sees_no_key_waits_for_its_queries(mask, monkeypatch, rng):
    """Its loop makes no step, and the queries that it has asked for must have arrived before it ends."""
    watch = Watch(monkeypatch)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 3, 4), (1, 1, 8, 4), (1, 1, 8, 4)))
    z, lse = launch.forward(q, k, v, mask, 0.5, TILE)
    assert not z.any()
    assert np.isneginf(lse).all()
    assert not watch.faults
