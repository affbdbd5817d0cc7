"""Who holds which tokens, and the mask between two pieces of a sequence: what needs no MPI."""

import numpy as np
import pytest

from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.core.engines import attention_backward_part
from gta_ref.distributed.merging import merge_all, merge_into
from gta_ref.distributed.shards import Shards, mask_of_pieces
from tests.support import random_inputs


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_token_has_one_rank(layout, ranks):
    shards = Shards(60, ranks, layout)
    tokens = [shards.tokens(rank) for rank in range(ranks)]
    assert sorted(np.concatenate(tokens)) == list(range(60))
    assert {len(one) for one in tokens} == {shards.local} == {60 // ranks}
    assert all((np.diff(one) > 0).all() for one in tokens)
    x = np.random.default_rng(0).standard_normal((2, 60, 3))
    np.testing.assert_array_equal(shards.join([shards.cut(x, rank, 1) for rank in range(ranks)], 1), x)


def test_zigzag_as_drawn():
    assert [Shards(8, 4).pieces(rank) for rank in range(4)] == [
        [(0, 1), (7, 8)],
        [(1, 2), (6, 7)],
        [(2, 3), (5, 6)],
        [(3, 5)],
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_zigzag_makes_causal_work_equal(ranks):
    """Rank r sees Σ (t + 1) keys over its tokens t."""
    length = 48 * ranks
    work = {
        layout: [int((Shards(length, ranks, layout).tokens(r) + 1).sum()) for r in range(ranks)]
        for layout in ("zigzag", "contiguous")
    }
    assert len(set(work["zigzag"])) == 1
    assert max(work["contiguous"]) > 1.4 * np.mean(work["contiguous"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((10, 4), "length=10 must be a multiple of 8, the parts of layout 'zigzag' for 4 ranks: pad the sequences"),
        ((10, 4, "contiguous"), "length=10 must be a multiple of 4"),
        ((8, 2, "striped"), "layout='striped' must be one of 'contiguous', 'zigzag'"),
        ((0, 2), "length=0 must be"),
        ((8, 0), "ranks=0 must be"),
    ],
)
def test_wrong_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shards(*arguments)


@pytest.mark.parametrize(
    "bounds", [{}, {"causal": False}, {"k_start": [3, 0], "k_stop": [9, 12]}, {"q_start": [-4, 5]}, {"k_stop": [0, 7]}]
)
def test_masks_of_pieces_make_up_the_whole(bounds):
    mask, shards = Mask(**bounds), Shards(12, 3)
    whole = np.broadcast_to(mask.to_dense(12, 12), (2, 12, 12))
    for rank in range(3):
        for queries in shards.pieces(rank):
            for owner in range(3):
                for keys in shards.pieces(owner):
                    n_q, n_k = queries[1] - queries[0], keys[1] - keys[0]
                    want = whole[:, queries[0] : queries[1], keys[0] : keys[1]]
                    own = mask_of_pieces(mask, 2, 12, queries, keys)
                    assert (own is None) == (not want.any())
                    if own is not None:
                        np.testing.assert_array_equal(np.broadcast_to(own.to_dense(n_q, n_k), want.shape), want)


def parts_of(arrays, mask, cuts):
    """Where each part of the keys begins and ends, and the mask for it."""
    n = arrays[1].shape[2]
    return [
        (a, b, mask_of_pieces(mask, arrays[0].shape[0], n, (0, n), (a, b)))
        for a, b in zip([0, *cuts], [*cuts, n], strict=True)
    ]


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize(
    "bounds", [{}, {"causal": False}, {"k_start": [3, 0], "k_stop": [9, 12]}, {"q_start": [-4, 5]}]
)
def test_parts_of_the_keys_make_up_the_whole(engine, bounds):
    """Forward parts merge to z and lse; gradients of the parts, given those, add up to the whole gradients."""
    arrays, mask = random_inputs(np.random.default_rng(8), (2, 4, 2, 1, 12, 12, 6, 5), np.float64), Mask(**bounds)
    q, k, v, dz, dlse = arrays
    z, lse, saved = attention_forward(q, k, v, mask=mask, engine="reference")
    want = attention_backward(dz, saved, dlse=dlse)
    parts = [one for one in parts_of(arrays, mask, [4, 5]) if one[2] is not None]
    found = [attention_forward(q, k[:, :, a:b], v[:, :, a:b], mask=own, engine=engine)[:2] for a, b, own in parts]
    for x, y in zip(merge_all(found), (z, lse), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-14)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for a, b, own in parts:
        part = attention_backward_part(
            dz, q, k[:, :, a:b], v[:, :, a:b], z, lse, mask=own, scale=6**-0.5, engine=engine, dlse=dlse
        )
        dq += part[0]
        dk[:, :, a:b] += part[1]
        dv[:, :, a:b] += part[2]
    for x, y in zip((dq, dk, dv), want, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-13)


def merged(z, lse, z_part, lse_part):
    z, lse = z.copy(), lse.copy()
    merge_into(z, lse, z_part, lse_part)
    return z, lse


def test_merging_rows_that_have_seen_nothing():
    z, lse = np.array([[[[2.0]], [[0.0]]]]), np.array([[[1.0], [-np.inf]]])
    nothing = np.zeros_like(z), np.full_like(lse, -np.inf)
    for found in (merged(z, lse, *nothing), merged(*nothing, z, lse)):
        for x, y in zip(found, (z, lse), strict=True):
            np.testing.assert_array_equal(x, y)


def test_merging_very_different_scores():
    """exp(lse) of neither part is a number in float32."""
    z, large, small = (
        np.ones((1, 1, 1, 1), np.float32),
        np.full((1, 1, 1), 500, np.float32),
        np.full((1, 1, 1), -500, np.float32),
    )
    found, lse = merged(z, large, 3 * z, large)
    assert found.item() == 2
    assert lse.item() == np.float32(500 + np.log(2))
    found, lse = merged(z, small, 3 * z, large)
    assert (found.item(), lse.item()) == (3, 500)
