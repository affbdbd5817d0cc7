"""Bounds where a comparison that is off by one shows: the smallest padding, one position for all, stages of unused slots.

Mutants of the definition that no other test had found led to these cases.
"""

import numpy as np
import pytest

from gta_ref.core import Mask, attention_backward, attention_forward, engines

AVAILABLE = [name for name in engines.MODULES if name != "cuda" and engines.why_not(name) is None]


def arrays(rng, n_queries, n_keys):
    shapes = ((2, 2, n_queries, 4), (2, 1, n_keys, 4), (2, 1, n_keys, 6))
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("engine", AVAILABLE)
@pytest.mark.parametrize("mask", [{"k_start": 1}, {"k_start": [0, 1]}, {"k_stop": 5}, {"k_stop": [6, 5]}], ids=str)
def test_a_single_unused_slot_may_hold_nan(mask, engine, rng):
    q, k, v = arrays(rng, 4, 6)
    mask = Mask(**mask)
    _, k_start, k_stop = mask.resolve(2, 4, 6)
    dz = rng.standard_normal((2, 2, 4, 6))
    results = []
    for fill in (0.0, np.nan):
        for b in range(2):
            for x in (k, v):
                x[b, :, : k_start[b]] = fill
                x[b, :, k_stop[b] :] = fill
        z, lse, saved = attention_forward(q, k, v, mask=mask, engine=engine)
        results.append((z, lse, *attention_backward(dz, saved)))
    for clean, poisoned in zip(*results, strict=True):
        np.testing.assert_array_equal(poisoned, clean)


def test_stages_of_unused_slots(rng):
    """Unused slots of k and v count as 0 in the stages: their scores are 0, and so is the gradient of their weights."""
    q, k, v = arrays(rng, 4, 6)
    k[:, :, :2] = v[:, :, :2] = np.nan
    k[:, :, 5:] = v[:, :, 5:] = np.nan
    stages = {}
    z, _, saved = attention_forward(q, k, v, mask=Mask(k_start=2, k_stop=5), engine="reference", trace=stages)
    attention_backward(rng.standard_normal(z.shape), saved, trace=stages)
    for name in ("scores", "map", "d_map", "d_scores"):
        assert not stages[name][..., [0, 1, 5]].any(), name
    assert stages["scores"][..., 2:5].all()
    assert stages["d_map"][..., 2:5].all()


def test_positions_have_one_row_if_all_sequences_agree():
    same = Mask(q_start=[3, 5], k_start=[1, 3]).positions(2, 4, 9)
    np.testing.assert_array_equal(same, [[2, 3, 4, 5]])
    apart = Mask(q_start=[3, 5], k_start=[1, 1]).positions(2, 2, 9)
    np.testing.assert_array_equal(apart, [[2, 3], [4, 5]])
