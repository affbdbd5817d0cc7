"""The rule of the mask against the same rule written as a loop, in all the ways in which a mask can be used."""

import numpy as np
import pytest

from gta_ref.core import Mask


def by_the_rule(mask, batch, n_queries, n_keys):
    """Query i of sequence b sees key j iff k_start <= j < k_stop and, if causal, j <= q_start + i."""

    def bound(value, default, b):
        return default if value is None else int(value if np.ndim(value) == 0 else value[b])

    seen = np.zeros((batch, n_queries, n_keys), bool)
    for b in range(batch):
        q_start = bound(mask.q_start, n_keys - n_queries, b)
        k_start, k_stop = bound(mask.k_start, 0, b), bound(mask.k_stop, n_keys, b)
        for i in range(n_queries):
            for j in range(n_keys):
                seen[b, i, j] = k_start <= j < k_stop and (not mask.causal or j <= q_start + i)
    return seen


USES = {
    "causal": (Mask(), 5, 5),
    "full": (Mask(causal=False), 3, 5),
    "decode": (Mask(), 1, 7),
    "chunked prefill": (Mask(q_start=4), 3, 9),
    "more queries than keys": (Mask(), 6, 4),
    "left padding": (Mask(k_start=[0, 3, 7]), 7, 7),
    "ragged": (Mask(k_stop=[5, 1, 0]), 5, 5),
    "ragged, not causal": (Mask(causal=False, k_start=[1, 0, 2], k_stop=[4, 5, 2]), 3, 5),
    "everything": (Mask(q_start=[-2, 3, 0], k_start=[0, 2, 9], k_stop=[6, 3, 4]), 4, 6),
    "no key": (Mask(), 3, 0),
    "no query": (Mask(), 0, 3),
}


@pytest.mark.parametrize("use", USES)
def test_rule(use):
    mask, n_queries, n_keys = USES[use]
    dense = mask.to_dense(n_queries, n_keys)
    per_sequence = any(np.ndim(v) for v in (mask.q_start, mask.k_start, mask.k_stop))
    assert dense.shape == ((3, n_queries, n_keys) if per_sequence else (n_queries, n_keys))
    assert dense.dtype == bool
    np.testing.assert_array_equal(
        np.broadcast_to(dense, (3, n_queries, n_keys)), by_the_rule(mask, 3, n_queries, n_keys)
    )


def test_plain_causal_is_the_lower_triangle():
    np.testing.assert_array_equal(Mask().to_dense(4, 4), np.tri(4, dtype=bool))
    np.testing.assert_array_equal(Mask().to_dense(2, 4), np.tri(2, 4, 2, dtype=bool))


def test_bounds_are_copied():
    k_start = np.array([0, 1])
    mask = Mask(k_start=k_start)
    k_start[:] = 9
    np.testing.assert_array_equal(mask.resolve(2, 3, 3)[1], [0, 1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(causal=1), "causal=1 must be True or False"),
        (dict(q_start=0.5), r"q_start=0\.5 must be a whole number"),
        (dict(k_start=True), "k_start=True must be a whole number"),
        (dict(k_stop=[0.5, 1.0]), r"k_stop has dtype float64 and shape \(2,\); expected an int or integers \(B,\)"),
        (dict(k_start=[[0]]), r"k_start has dtype int64 and shape \(1, 1\)"),
    ],
)
def test_wrong_bounds(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mask(**arguments)


@pytest.mark.parametrize(
    "mask, message",
    [
        (Mask(k_start=[0, 1, 2]), r"k_start has shape \(3,\); expected \(2,\), one per sequence"),
        (Mask(k_start=[0, -1]), "k_start=-1 of sequence 1 must be a whole number of at least 0"),
        (Mask(k_stop=[4, 5]), "k_stop=5 of sequence 1 must be between 0 and N_k=4"),
        (Mask(k_stop=-1), "k_stop=-1 of sequence 0 must be between 0 and N_k=4"),
    ],
)
def test_bounds_that_do_not_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        mask.resolve(2, 4, 4)
