"""The kernels in Numba's simulator, against the engine "reference" in float64. `make test-cudasim` runs this file.

A thread of the simulator is a Python thread, so that blocks and cases must be small. All unused slots hold NaN.
"""

from functools import partial
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from gta_cuda import (
    arrays,
    backward_bf16,
    backward_bf16_queries,
    emulated,
    engine,
    forward_bf16,
    ladder,
    launch,
    launch_backward,
    merge,
)
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_backward, attention_forward
from tests.gta_cuda.watched import Watch

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


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    """Fail if there is a race, a barrier that only some threads reach, or a read of memory that was not written."""
    watch = Watch(monkeypatch)
    yield
    assert not watch.faults


def make(case, dtype, rng):
    """Arrays whose unused slots are NaN, and their mask. Later keys are larger, so that a row's maximum changes."""
    (batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v), mask = case
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape) for shape in shapes)
    k *= np.linspace(0.5, 1.5, n_keys)[:, None]
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    _, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    for b in range(batch):
        for x in (k, v):
            x[b, :, : k_start[b]] = np.nan
            x[b, :, k_stop[b] :] = np.nan
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


@pytest.mark.parametrize("case", CASES)
def test_forward(case, rng):
    inputs, mask = make(CASES[case], np.float32, rng)
    scale = inputs[0].shape[3] ** -0.5
    z, lse = launch.forward(*inputs, mask, scale, TILE)
    plain, truth = exact(inputs, mask, scale, np.float32), exact(inputs, mask, scale)
    for one, other, true in zip((z, lse), plain, truth, strict=False):
        assert_as_close(one, other, true)
    assert not z[np.isneginf(lse)].any()


@pytest.mark.parametrize(
    "case, with_dlse, parts",
    # more parts than a block has steps, too
    [
        *zip(CASES, (True,) * 4, ((1, 2), (1, 1), (2, 1), (2, 3)), strict=True),
        ("masked rows", False, (3, 5)),
        ("not causal, wide keys", True, (1, 2)),
    ],
    ids=str,
)
def test_backward(case, with_dlse, parts, rng):
    inputs, mask = make(CASES[case], np.float32, rng)
    scale = inputs[0].shape[3] ** -0.5
    z, lse, plain_saved = exact(inputs, mask, scale, np.float32)
    dz, dlse = (rng.standard_normal(x.shape).astype(np.float32) for x in (z, lse))
    dlse = dlse if with_dlse else None
    got = launch.backward(*inputs, z, lse, dz, dlse, mask, scale, TILE, parts)
    plain = attention_backward(dz, plain_saved, dlse=dlse)
    _, _, saved = exact(inputs, mask, scale)
    assert not got[0][np.isneginf(lse)].any()
    for x, gradient in zip(inputs[1:], got[1:], strict=True):
        assert not gradient[np.isnan(x)].any()
    for one, other, truth in zip(got, plain, attention_backward(dz.astype(np.float64), saved, dlse=dlse), strict=True):
        assert_as_close(one, other, truth)


@pytest.mark.parametrize(
    "case, splits, warps", list(zip(DECODES, (3, 1, 1, 1, 1, 1), (1, 2, 2, 1, 1, 1), strict=True)), ids=str
)
def test_decode(case, splits, warps, rng):
    inputs, mask = make(DECODES[case], np.float32, rng)
    scale = inputs[0].shape[3] ** -0.5
    got = launch.decode(*inputs, mask, scale, splits, warps)
    for one, plain, truth in zip(got, exact(inputs, mask, scale, np.float32), exact(inputs, mask, scale), strict=False):
        assert_as_close(one, plain, truth)
    assert not got[0][np.isneginf(got[1])].any()


@pytest.mark.parametrize("splits", [2, 37])
@pytest.mark.parametrize("d_v", [128, 7])
def test_merge(splits, d_v, rng):
    """Parts of very different sizes, some of which saw nothing; one row saw nothing at all."""
    lse_parts = ([30, 1, 1] * rng.standard_normal((splits, 3))).astype(np.float32)
    lse_parts[rng.random((splits, 3)) < 0.3] = -np.inf
    lse_parts[:, 1] = -np.inf
    z_parts = rng.standard_normal((splits, 3, d_v)).astype(np.float32)
    z_parts[np.isneginf(lse_parts)] = 0
    quads, lanes = merge.cut(d_v, splits, 32)
    found = []
    for _ in range(2):
        z, lse = np.full((3, d_v), np.nan, np.float32), np.full(3, np.nan, np.float32)
        launch.merge_kernel(d_v, False, 32).launch(
            (3, -(-d_v // (4 * quads)), 1),
            0,
            *(x.ravel() for x in (z_parts, lse_parts, z, lse)),
            3,
            splits,
            quads,
            lanes,
        )
        found.append((z, lse))
    np.testing.assert_array_equal(*(z for z, _ in found))  # equal from run to run
    truth = np.logaddexp.reduce(lse_parts.astype(np.float64), axis=0)
    np.testing.assert_array_equal(np.isneginf(lse), [False, True, False])
    np.testing.assert_allclose(lse, truth, rtol=1e-6, atol=1e-5)
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(np.exp(lse_parts - truth))
    want = (shares[..., None] * z_parts).sum(0)
    # a share has the relative error of exp2 of a number of up to 100: 100 · 2⁻²⁴ · ln 2, and of a few sums
    np.testing.assert_allclose(z, want, atol=1e-5)
    assert not z[1].any()


# both warps, and three tiles of keys, so that maxima change from tile to tile; some rows of each half of a warp, or all
# rows, see nothing
ON_TENSOR_CORES = {
    **CASES,
    "several tiles": ((3, 1, 1, 1, 18, 37, 8, 8), Mask(q_start=[19, -10, -18])),
    # 16-byte copies; 5 of 8 threads on a row have columns of a key; the second part of d_v has 9 groups of columns
    "parts of rows": ((1, 1, 1, 1, 3, 40, 40, 200), Mask()),
}


@pytest.mark.parametrize("case", ON_TENSOR_CORES)
def test_forward_on_tensor_cores(case, rng):
    inputs, mask = make(ON_TENSOR_CORES[case], BFLOAT16, rng)
    scale = 3 * inputs[0].shape[3] ** -0.5
    z, lse = launch.forward_bf16(*inputs, mask, scale, TILE_BF16)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, scale)
    assert_as_close(lse, exact(inputs, mask, scale, np.float32)[1], exact(inputs, mask, scale)[1])


@pytest.mark.parametrize("tile", [(16, 16), (32, 16), (64, 16, 2), (16, 48, 1, 3), (64, 32, 2, 2)], ids=str)
def test_tiles_of_the_tensor_cores(tile, rng):
    """One or two row tiles per warp; one, two or three groups of warps, of one or two warps each; several steps."""
    inputs, mask = make(((1, 2, 1, 1, 35, 75, 16, 16), Mask(q_start=39, k_start=1)), BFLOAT16, rng)
    z, lse = launch.forward_bf16(*inputs, mask, 0.6, forward_bf16.Tile(*tile))
    assert_rounded(z, inputs, mask, 0.6)
    assert_as_close(lse, exact(inputs, mask, 0.6, np.float32)[1], exact(inputs, mask, 0.6)[1])


@pytest.mark.parametrize("growth", [1, 4, 300, -300])
def test_the_base_of_a_row_follows_its_maximum(growth, rng):
    """From step to step the maxima of the lower rows of a warp rise by less than 8 in units of log 2, by more, by so much
    that exp overflows, or fall; those of its upper rows do the opposite, by a tenth."""
    q = (np.abs(rng.standard_normal((1, 1, 20, 8))) + 0.5) * np.where(np.arange(20) // 8 % 2, 1, -0.1)[:, None]
    k = np.abs(rng.standard_normal((1, 1, 130, 8))) * 0.1 + (growth * (np.arange(130) // 32) / 4)[:, None]
    inputs = tuple(x.astype(BFLOAT16) for x in (q, k, rng.standard_normal((1, 1, 130, 8))))
    mask = Mask(causal=False)
    z, lse = launch.forward_bf16(*inputs, mask, 1.0, TILE_BF16)
    assert_rounded(z, inputs, mask, 1.0)
    assert_as_close(lse, exact(inputs, mask, 1.0, np.float32)[1], exact(inputs, mask, 1.0)[1])


# with 16 keys per step: part of one step, and two steps for one of two warps
@pytest.mark.parametrize(
    "case, splits, warps", list(zip(DECODES, (3, 1, 3, 1, 1, 1), (2, 1, 2, 2, 1, 1), strict=True)), ids=str
)
def test_decode_on_tensor_cores(case, splits, warps, rng):
    inputs, mask = make(DECODES[case], BFLOAT16, rng)
    scale = 3 * inputs[0].shape[3] ** -0.5
    z, lse = launch.decode(*inputs, mask, scale, splits, warps)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, scale)
    assert_as_close(lse, exact(inputs, mask, scale, np.float32)[1], exact(inputs, mask, scale)[1])


@pytest.mark.parametrize("step", ladder.FIRST)
def test_first_steps_of_the_ladder(step, rng):
    for case in ("tails, heads differ, causal", "masked rows"):
        inputs, mask = make(CASES[case], np.float32, rng)
        measures = {"threads": 4} if step == "naive" else {"threads": 4, "keys": 4}
        got = ladder.run_first(step, *inputs, mask, 0.4, **measures)
        for one, plain, truth in zip(got, exact(inputs, mask, 0.4, np.float32), exact(inputs, mask, 0.4), strict=False):
            assert_as_close(one, plain, truth)


@pytest.fixture
def small(monkeypatch):
    """Let the engine choose its kernels, but with blocks that are small enough to simulate."""
    monkeypatch.setattr(launch, "forward", partial(launch.forward, tile=TILE))
    monkeypatch.setattr(launch, "backward", partial(launch.backward, tile=TILE))
    tiles = {"tile_q": backward_bf16_queries.Tile(32, 16, 16, 1), "tile_k": backward_bf16.Tile(32, 16, 16)}
    monkeypatch.setattr(launch, "backward_bf16", partial(launch.backward_bf16, **tiles))
    monkeypatch.setattr(launch, "forward_bf16", partial(launch.forward_bf16, tile=TILE_BF16))
    monkeypatch.setattr(launch, "prepare", partial(launch.prepare, warps=1))
    monkeypatch.setattr(engine, "MOST_DECODE_ROWS", 4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n_queries", [1, 5], ids=["decode", "forward"])
def test_engine(dtype, n_queries, small, rng):
    """Forward and backward in every dtype with the kernels that the engine chooses; inputs are views of a cache."""
    case = ((1, 2, 1, 1, n_queries, 9, 8, 4), Mask(k_start=2))
    inputs, mask = make(case, BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype), rng)
    in_cache = [inputs[0], *(np.concatenate([x, x], axis=2)[:, :, :9] for x in inputs[1:])]
    assert not in_cache[1].flags.c_contiguous or in_cache[1].shape[1] == 1
    z, lse = engine.run(*in_cache, mask, 0.4)
    assert z.dtype == inputs[0].dtype
    assert lse.dtype == np.float32
    dz, dlse = rng.standard_normal(z.shape).astype(z.dtype), rng.standard_normal(lse.shape)
    state = engine.State(*in_cache, z, lse, mask, 0.4, False)
    _, _, saved = exact(inputs, mask, 0.4)
    unit = {"float32": 2.0**-20, "float16": 2.0**-9, "bfloat16": 2.0**-6}[dtype]  # some roundings of the dtype
    for got, truth in zip(
        (z, *engine.run_backward(dz, state, dlse)),
        (exact(inputs, mask, 0.4)[0], *attention_backward(dz.astype(np.float64), saved, dlse=dlse)),
        strict=True,
    ):
        assert got.dtype == z.dtype
        assert np.abs(got.astype(np.float64) - truth).max() <= unit * max(1, np.abs(truth).max())


@pytest.mark.parametrize("sizes", [(1, 2, 1, 1, 0, 5, 4, 3), (1, 2, 1, 1, 3, 0, 4, 3), (0, 2, 1, 1, 3, 3, 4, 3)])
def test_empty(sizes, rng):
    inputs, mask = make((sizes, Mask()), np.float32, rng)
    z, lse = engine.run(*inputs, mask, 0.4)
    assert z.shape == (*inputs[0].shape[:3], 3)
    assert not z.any()
    assert np.isneginf(lse).all()
    grads = engine.run_backward(np.ones_like(z), engine.State(*inputs, z, lse, mask, 0.4, False), None)
    for grad, x in zip(grads, inputs, strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


def test_values_without_columns(small, rng):
    """lse and its gradient are finite even so."""
    inputs, mask = make(((1, 2, 1, 1, 2, 5, 4, 0), Mask()), np.float32, rng)
    z, lse = engine.run(*inputs, mask, 0.4)
    _, truth, saved = exact(inputs, mask, 0.4)
    np.testing.assert_allclose(lse, truth, rtol=1e-6)
    dlse = rng.standard_normal(lse.shape)
    got = engine.run_backward(z, engine.State(*inputs, z, lse, mask, 0.4, False), dlse)
    for one, true in zip(got, attention_backward(z.astype(np.float64), saved, dlse=dlse), strict=True):
        assert one.shape == true.shape
        np.testing.assert_allclose(one, true, rtol=1e-5, atol=1e-6)


def test_what_counts_as_wide(rng):
    x = np.zeros((2, 3, 5, 8), np.float32)
    assert arrays.is_wide(x, x[:, :, 1:])
    assert not arrays.is_wide(x, x[..., 1:])  # rows begin 4 bytes after a 16-byte boundary
    assert not arrays.is_wide(x[..., :6].copy())  # 24 bytes
    assert not arrays.is_wide(np.zeros((2, 3, 5, 9), np.float32)[..., :8])  # rows are 36 bytes apart
    assert arrays.rows(x[:, :, ::2]) is not x[:, :, ::2]
    assert arrays.rows(x[..., ::2]).strides[-1] == 4
    turned = x[:, :, ::-1]
    assert arrays.rows(turned).strides[2] > 0


def test_an_odd_cotangent_is_read_element_by_element(monkeypatch, rng):
    inputs, mask = make(CASES["masked rows"], np.float32, rng)
    z, lse, _ = exact(inputs, mask, 0.4, np.float32)
    odd = np.zeros(z.size + 1, np.float32)[1:].reshape(z.shape)  # begins 4 bytes after a multiple of 16
    asked = []

    def kernel(*measures):
        asked.append(measures)
        return SimpleNamespace(threads=32, launch=lambda *arguments: None)

    for name in ("delta_kernel", "backward_queries_kernel", "backward_keys_kernel", "sum_kernel"):
        monkeypatch.setattr(launch_backward, name, kernel)
    for dz in (odd.copy(), odd):
        launch.backward(*inputs, z, lse, dz, None, mask, 0.4, TILE)
    assert asked == [(16, 1, False), *[(8, 16, True, TILE)] * 2, (16, 1, False), *[(8, 16, False, TILE)] * 2]


def test_bounds_fit_into_32_bits():
    mask = Mask(q_start=[2**40, -(2**40)], k_start=[2**40, 0], k_stop=[7, 3])
    found = arrays.bounds(mask, 2, 4, 9, np.empty(0), 0)
    np.testing.assert_array_equal(found, [9, -4, 9, 0, 7, 3])
    assert found.dtype == np.int32


def test_how_work_is_cut():
    assert [launch.balanced(total, 8) for total in (5, 8, 9, 10, 16)] == [5, 8, 5, 5, 8]
    places = 396  # 132 multiprocessors with 3 blocks each
    assert launch.choose_splits(1, 131072, 64, places) == 396
    assert launch.choose_splits(32, 8192, 64, places) == 12  # 384 blocks
    assert launch.choose_splits(300, 8192, 64, places) == 5  # 1500 blocks, which are 3.8 times the places
    assert launch.choose_splits(396, 8192, 64, places) == 1
    assert launch.choose_splits(1, 8192, 64, places) == 64  # two steps per split
    assert launch.choose_splits(1, 512, 64, places) == 4
    assert launch.choose_splits(1, 511, 64, places) == 1


@pytest.mark.parametrize(
    "d_v, splits, threads, want",
    [
        (128, 396, 128, (2, 64)),  # 16 blocks per row
        (128, 64, 128, (8, 16)),
        (128, 12, 128, (32, 4)),  # one block per row
        (128, 2, 128, (32, 4)),
        (5, 3, 32, (2, 16)),
        (1, 3, 32, (1, 32)),
        (512, 1000, 128, (2, 64)),
        (512, 3, 128, (128, 1)),
    ],
)
def test_how_a_merge_is_cut(d_v, splits, threads, want):
    assert merge.cut(d_v, splits, threads) == want


def test_which_kernel_takes_what():
    def takes(dtype, n_queries, d_k=64, d_v=128, most=16):
        shapes = (1, 5, n_queries, d_k), (1, 1, 9, d_k), (1, 1, 9, d_v)
        return launch.takes_decode(*(np.empty(shape, dtype) for shape in shapes), most)

    assert [takes(np.float32, n) for n in (3, 4)] == [True, False]  # 15 and 20 rows per key
    assert [takes(np.float32, 1, d_k) for d_k in (576, 4096)] == [True, False]
    assert [takes(BFLOAT16, 1, 256, d_v) for d_v in (256, 512)] == [True, False]
    assert [launch.takes_bf16(d_k) for d_k in (256, 257)] == [True, False]


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7F800001])
def test_nan_stays_nan_when_it_is_rounded(bits):
    """Memory that was never written is NaN here; if rounding made it a number, the error would go unnoticed."""
    nan = np.uint32(bits).view(np.float32)
    pair = emulated.pack_bf16(nan, np.float32(1))
    low, high = np.array([pair & 0xFFFF, pair >> 16], np.uint16).view(BFLOAT16)
    assert np.isnan(low)
    assert high == 1


@pytest.mark.parametrize("step", ["tiles", "online"])
def test_widths_that_need_too_much_shared_memory_are_refused(step):
    widest = {"tiles": (384, 384), "online": (192, 192)}[step]  # 32 keys of 384 floats are 48 KiB
    ladder.first_step(step, *widest)
    with pytest.raises(ValueError, match=r"d_v=\d+ need [\d,]+ bytes of shared memory per block; expected 49,152"):
        ladder.first_step(step, widest[0], widest[1] + 1)


def test_the_ladder_names_a_step_that_it_does_not_have(capsys):
    assert ladder.main(["naive", "fast"]) == 2
    out, message = capsys.readouterr()
    assert out == ""
    assert message.startswith("step 'fast' must be one of naive, tiles, online, forward, mma, ")
    assert message.endswith(", decode_bf16, backward_whole, backward, backward_bf16\n")


def test_the_engine_refuses_to_run_simulated():
    assert "NUMBA_ENABLE_CUDASIM" in engine.why_not()
