"""What only the engine "numba" has: tiles, chunks, storage types, strides, NaN. The truth is "reference" in float64.

How large an error may be is in cases.py.
"""

import ml_dtypes
import numpy as np
import pytest

from gta_ref.core import EngineError, Mask, attention_backward, attention_forward
from gta_ref.core.cpu import matrix_units
from gta_ref.core.cpu import plan as plans
from tests.core.cpu.cases import CASES, TIMES, assert_right, errors
from tests.support import both_passes, random_inputs

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_as_exact_as_reference(rng, case, dtype):
    sizes, mask = CASES[case]
    assert_right(random_inputs(rng, sizes, dtype), mask)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 5, 1, 1, 150, 150, 64, 128),
        (3, 4, 4, 4, 63, 63, 7, 9),
        (1, 4, 4, 4, 10, 300, 64, 64),
        (2, 5, 1, 1, 1, 300, 64, 128),
    ],
)
def test_huge_logits(rng, sizes):
    # If the scores of the backward differed from those of the forward in the last bit, its map would be off by 1e-3.
    # Nearly all maps are 0 and 1. The error is that of the few rows with two scores close to each other, so it differs
    # by a factor of 10 from draw to draw, and the largest of several draws is compared.
    draws = [errors(random_inputs(rng, sizes, stretch=1000.0)) for _ in range(6)]
    for name in draws[0]:
        error, known, roundings = (max(draw[name][i] for draw in draws) for i in range(3))
        assert error <= TIMES * known + roundings, f"{name}: {error:.1e}, reference {known:.1e}"


HUGE = {np.float32: (1e5, 1e9, 1e15, 3e18), np.float64: (1e10, 1e20, 1e60, 3e150)}


@pytest.mark.parametrize("queries", [40, 1], ids=["panels", "rows"])
@pytest.mark.parametrize(("dtype", "stretch"), [(dtype, stretch) for dtype in HUGE for stretch in HUGE[dtype]])
def test_scores_near_overflow(rng, dtype, stretch, queries):
    """Scores of up to 1e37 and 1e301, whose unit in the last place is far above 1: one key has all the weight."""
    q, k, v, dz, dlse = random_inputs(rng, (2, 4, 2, 1, queries, 150, 16, 24), dtype)
    arrays = q * dtype(stretch), k * dtype(stretch), v, dz, dlse * 0
    got, want = both_passes(arrays), both_passes(arrays, engine="reference")
    top = np.abs(want[1]).max()
    np.testing.assert_allclose(got[1], want[1], rtol=16 * np.finfo(dtype).eps)
    assert np.isfinite(got[1]).all()
    assert top > stretch**2
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=4 * np.finfo(dtype).eps * np.abs(v).max())
    for x in got[2:]:
        assert np.isfinite(x).all()
    np.testing.assert_allclose(got[4], want[4], rtol=0, atol=64 * np.finfo(dtype).eps * np.abs(want[4]).max())


def test_scale_does_not_overflow(rng):
    """Q times scale · log₂e would be infinite where the scores themselves are not."""
    q, k, v, *_ = random_inputs(rng, (1, 2, 1, 1, 20, 20, 1, 4))
    q, k = np.sign(q) * np.float32(3e38), np.abs(k) * np.float32(1e-39)
    for name in ("numba", "reference"):
        z, lse, _ = attention_forward(q, k, v, scale=3.0, engine=name)
        assert np.isfinite(z).all()
        assert np.isfinite(lse).all()


def test_scale(rng):
    assert_right(random_inputs(rng, (2, 4, 1, 1, 50, 50, 16, 20)), scale=3.0)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize(
    "sizes", [(2, 4, 2, 1, 70, 140, 24, 33), (2, 5, 1, 1, 1, 2100, 64, 128)], ids=["tiles", "decode"]
)
def test_half_precision_is_float32_rounded_once(rng, dtype, sizes, monkeypatch):
    monkeypatch.setattr(matrix_units, "form", lambda: None)  # a matrix unit rounds the weights of bfloat16 as well
    arrays = random_inputs(rng, sizes, dtype)
    got, wide = both_passes(arrays), both_passes(arrays, dtype=np.float32)
    for name, x, y in zip(("z", "lse", "dq", "dk", "dv"), got, wide, strict=True):
        assert x.dtype == (np.float32 if name == "lse" else dtype)
        np.testing.assert_array_equal(x, y.astype(x.dtype), err_msg=name)


@pytest.mark.parametrize("queries", [1, 20], ids=["rows", "panels"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_every_half_precision_number_is_read_right(dtype, queries):
    # with a single key, z equals v; 2^16 − 1 columns leave a remainder
    v = np.arange(2**16 - 1, dtype=np.uint16).view(dtype).reshape(1, 1, 1, -1)
    q, k = np.ones((1, 1, queries, 3), dtype), np.ones((1, 1, 1, 3), dtype)
    z, _, _ = attention_forward(q, k, v, mask=Mask(causal=False), engine="numba")
    nan = np.isnan(v.astype(np.float32))
    assert np.isnan(z.astype(np.float32))[nan.repeat(queries, axis=2)].all()
    np.testing.assert_array_equal(z[~nan.repeat(queries, axis=2)].reshape(queries, -1)[0], v[~nan])


STRIDES = {
    "heads last": lambda x: x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
    "width first": lambda x: x.transpose(3, 0, 1, 2).copy().transpose(1, 2, 3, 0),
    "backwards": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "every other": lambda x: x.repeat(2, axis=3)[..., ::2],
    "part of a row": lambda x: np.concatenate([x, x], axis=3)[..., : x.shape[3]],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize(
    "sizes", [(2, 4, 2, 1, 50, 140, 24, 33), (2, 5, 1, 1, 1, 300, 16, 32)], ids=["tiles", "decode"]
)
@pytest.mark.parametrize("layout", STRIDES)
def test_any_strides(rng, layout, sizes):
    arrays = random_inputs(rng, sizes)
    moved = [STRIDES[layout](x) if x.ndim == 4 else x for x in arrays]
    for x, y in zip(both_passes(moved), both_passes(arrays), strict=True):
        np.testing.assert_array_equal(x, y)


def test_one_row_for_all_keys(rng):
    q, k, v, dz, dlse = random_inputs(rng, (1, 4, 1, 1, 40, 140, 16, 16))
    k, v = (np.broadcast_to(x[:, :, :1], x.shape) for x in (k, v))
    z, lse, *_ = both_passes((q, k, v, dz, dlse), Mask(causal=False))
    # 140 equal terms, with each partial sum rounded
    np.testing.assert_allclose(z, np.broadcast_to(v[:, :, :1], z.shape), rtol=140 * np.finfo(np.float32).eps)
    assert np.isfinite(lse).all()


def test_inputs_are_not_written(rng):
    for sizes in ((2, 4, 2, 1, 70, 140, 24, 33), (1, 5, 1, 1, 1, 2100, 16, 32)):
        arrays = random_inputs(rng, sizes)
        before = [x.tobytes() for x in arrays]
        both_passes(arrays)
        assert [x.tobytes() for x in arrays] == before


@pytest.mark.parametrize(
    "sizes", [(3, 4, 2, 1, 70, 140, 24, 33), (3, 5, 1, 1, 1, 2300, 16, 32)], ids=["tiles", "decode"]
)
def test_unused_slots_never_reach_a_result(rng, sizes):
    mask = Mask(k_start=[0, 9, 30], k_stop=[sizes[5] - 7, sizes[5], 40])
    arrays = random_inputs(rng, sizes)
    clean = both_passes(arrays, mask)
    slot = np.arange(sizes[5])
    unused = (slot < mask.k_start[:, None]) | (slot >= mask.k_stop[:, None])  # (B, N_k)
    for poison in (np.nan, np.inf):
        q, k, v, dz, dlse = (x.copy() for x in arrays)
        for x in (k, v):
            x.swapaxes(1, 2)[unused] = poison
        for x, y in zip(both_passes((q, k, v, dz, dlse), mask), clean, strict=True):
            np.testing.assert_array_equal(x, y)


def test_cotangent_of_a_blind_row_has_no_effect(rng):
    *arrays, dlse = random_inputs(rng, (1, 4, 1, 1, 40, 40, 16, 16))
    mask = Mask(q_start=-10)
    dlse[:, :, :10] = np.nan
    for x in both_passes((*arrays, dlse), mask)[2:]:
        assert np.isfinite(x).all()


@pytest.mark.parametrize("queries", [40, 1], ids=["panels", "rows"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_nan_and_infinity_show_where_they_show_in_reference(rng, where, value, queries):
    q, k, v, _, _ = random_inputs(rng, (1, 4, 2, 1, queries, 140, 16, 16))
    {"q": q, "k": k, "v": v}[where][0, 0, 0 if where == "q" else 115, 3] = value
    with np.errstate(invalid="ignore"):
        got, want = (attention_forward(q, k, v, engine=name)[:2] for name in ("numba", "reference"))
    for x, y in zip(got, want, strict=True):
        # a row before key 115 does not see it; it is unspecified whether 0 · ∞ is added there
        x, y = x[:, :, min(queries, 15) - 1 :], y[:, :, min(queries, 15) - 1 :]
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        np.testing.assert_array_equal(np.isinf(x), np.isinf(y))
    assert not np.isfinite(got[0]).all()


@pytest.mark.parametrize(("queries", "keys"), [(40, 140), (1, 140), (1, 4200)], ids=["panels", "rows", "chunks"])
def test_scores_of_minus_infinity_are_as_good_as_unseen(rng, queries, keys):
    q, k, v, dz, dlse = random_inputs(rng, (2, 4, 1, 1, queries, keys, 1, 16))
    q, k[0] = np.abs(q), -np.inf
    z, lse, *grads = both_passes((q, k, v, dz, dlse))
    assert (z[0] == 0).all()
    assert np.isneginf(lse[0]).all()
    assert np.isfinite(z[1]).all()
    assert np.isfinite(lse[1]).all()
    assert (grads[2][0] == 0).all()


def test_without_saved(rng):
    q, k, v, _, _ = random_inputs(rng, (1, 5, 1, 1, 40, 40, 16, 16))
    z, lse, saved = attention_forward(q, k, v, engine="numba", need_saved=False)
    assert saved is None
    for x, y in zip((z, lse), attention_forward(q, k, v, engine="numba"), strict=False):
        np.testing.assert_array_equal(x, y)


def test_trace_has_no_scores_and_no_map(rng):
    q, k, v, dz, _ = random_inputs(rng, (1, 5, 1, 1, 40, 40, 16, 16))
    trace = {}
    _, _, saved = attention_forward(q, k, v, engine="numba", trace=trace)
    attention_backward(dz, saved, trace=trace)
    assert trace == {}


def test_arrays_of_another_library_are_refused():
    from gta_ref.core.cpu import engine as fused

    class Foreign:
        dtype = np.dtype(np.float32)

    with pytest.raises(EngineError, match=r"q is a .*Foreign; engine 'numba' takes numpy.ndarray of float64, float32"):
        fused.check(Foreign(), np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("case", CASES)
def test_items_and_pieces_cover_every_visible_pair_once(rng, case):
    sizes, mask = CASES[case]
    batch, n_q, n_k, n_v, n_queries, n_keys, _, _ = sizes
    q, k, v, *_ = random_inputs(rng, sizes)
    mask = mask or Mask()
    plan = plans.plan(q, k, v, mask)
    q_start, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    for items in (plan.items, plan.pieces):
        count = np.zeros((batch, n_q, n_queries, n_keys), int)
        for b, m, first, stop, k_first, k_last, _ in items:
            count[b, m : m + plan.sizes.maps, first:stop, k_first:k_last] += 1
        # an item covers the keys that its last row sees, and none outside the sequence
        slot = np.arange(n_keys)
        used = (k_start[:, None] <= slot) & (slot < k_stop[:, None])
        assert (count[~np.broadcast_to(used[:, None, None], count.shape)] == 0).all()
        visible = np.broadcast_to(mask.to_dense(n_queries, n_keys), (batch, n_queries, n_keys))
        assert (count[np.broadcast_to(visible[:, None], count.shape)] == 1).all()
    # all maps of an item read the same heads
    for m in plan.items[:, plans.MAP]:
        for per in (n_q // n_k, n_q // n_v):
            assert m // per == (m + plan.sizes.maps - 1) // per


def test_shares_are_a_partition_and_even():
    cost = np.arange(1, 44)
    for workers in (1, 2, 3, 8):
        shares = plans.share(cost, workers)
        assert sorted(np.concatenate(shares)) == list(range(43))
        sums = [cost[s].sum() for s in shares]
        assert max(sums) - min(sums) <= cost.max()


def test_units_of_a_key_head_stay_together(rng):
    q, k, v, *_ = random_inputs(rng, (3, 12, 6, 4, 200, 200, 4, 4))  # maps 0–5 share a key or a value head, and 6–11
    plan = plans.plan(q, k, v, Mask())
    for workers in (1, 2, 3, 6):
        shares = plans.share_units(plan, workers)
        if workers > 1 and plans.UNITS_A_WORKER * workers > 3 * 2:
            assert shares is None
            continue
        assert sorted(np.concatenate(shares)) == list(range(len(plan.items)))
        owner = {}
        for worker, mine in enumerate(shares):
            for b, m in plan.items[mine][:, [plans.BATCH, plans.MAP]]:
                assert owner.setdefault((b, m // 6), worker) == worker
