"""The backward by some of the keys, in Numba's simulator: z and lse are those of all keys, the parts add up to the whole.

The ring of several processes computes it (``gta_ref.distributed``). `make test-cudasim` runs this file.
"""

import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from gta_cuda import engine, launch
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.distributed.shards import mask_of_pieces
from tests.support import random_inputs

TILE = Tile(rows=8, columns=8, groups=4, height=4)
# B, n_q, n_k, n_v, N_q, N_k, d_k, d_v
SIZES = (2, 4, 2, 1, 6, 6, 6, 5)
PARTS = ((0, 2), (2, 6))


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """Small tiles, and what the engine asks of CuPy, with NumPy's arrays."""
    monkeypatch.setattr(launch, "backward", partial(launch.backward, tile=TILE))
    cuda = SimpleNamespace(Device=lambda number: nullcontext())
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(asarray=np.asarray, cuda=cuda))
    monkeypatch.setattr(engine, "_back", lambda x, to_numpy: x)


@pytest.mark.parametrize(
    ("bounds", "with_dlse"), [({}, False), ({"causal": False, "k_stop": [6, 4]}, True), ({"k_start": [0, 4]}, True)]
)
def test_parts_add_up_to_the_whole_backward(bounds, with_dlse):
    mask = Mask(**bounds)
    q, k, v, dz, dlse = random_inputs(np.random.default_rng(0), SIZES, np.float32)
    dlse = dlse if with_dlse else None
    exact = [x.astype(np.float64) for x in (q, k, v)]
    z, lse, saved = attention_forward(*exact, mask=mask, scale=0.4, engine="reference")
    want = attention_backward(dz.astype(np.float64), saved, dlse=dlse)
    z, lse = z.astype(np.float32), lse.astype(np.float32)
    sums = [np.zeros_like(x) for x in (q, k, v)]
    for first, stop in PARTS:
        own = mask_of_pieces(mask, 2, 6, (0, 6), (first, stop))
        keys = np.s_[:, :, first:stop]
        part = engine.backward_part(dz, q, k[keys], v[keys], z, lse, own, 0.4, dlse)
        sums[0] += part[0]
        sums[1][keys], sums[2][keys] = part[1:]
    for one, true in zip(sums, want, strict=True):
        np.testing.assert_allclose(one, true, rtol=0, atol=2e-6)
