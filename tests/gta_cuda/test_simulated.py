"""The kernels as Numba's simulator runs them, against the engine "reference" in float64. Run by `make test-cudasim`.

A thread of the simulator is a Python thread, so the blocks, and the cases, are small. All unused slots hold NaN.
"""

import importlib.util
from functools import partial

import ml_dtypes
import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: pip install --group cuda", allow_module_level=True)

from gta_cuda import arrays, engine, forward_bf16, ladder, launch
from gta_cuda.tiles import Tile
from gta_ref.core import Mask, attention_backward, attention_forward

TILE = Tile(rows=8, columns=8, groups=4, height=4)
TILE_BF16 = forward_bf16.Tile(rows=16, keys=16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask
CASES = {
    # 9 = 8 + 1 queries and 11 = 8 + 3 keys; the widths are no multiples of 4
    "tails, heads differ, causal": ((1, 4, 2, 1, 9, 11, 6, 5), Mask()),
    # sequence 0: rows 0 and 1 see nothing; sequence 1 begins inside a tile; widths allow 16-byte loads
    "masked rows": ((2, 2, 1, 1, 5, 10, 8, 16), Mask(q_start=[-2, 7], k_start=[0, 3], k_stop=[9, 8])),
    # two slabs of d_k, two groups of columns of d_v
    "not causal, wide heads": ((1, 2, 1, 2, 3, 12, 68, 20), Mask(causal=False, k_start=2, k_stop=11)),
}
DECODES = {
    "ragged": ((3, 3, 1, 1, 1, 21, 8, 12), Mask(k_start=[3, 0, 7], k_stop=[21, 0, 9])),
    "two queries, heads differ": ((1, 4, 2, 1, 2, 21, 6, 5), Mask(q_start=-1)),
    "not causal, more rows than a block has": ((1, 5, 1, 1, 2, 19, 16, 40), Mask(causal=False)),
}


def make(case, dtype, rng):
    """Arrays whose unused slots are NaN, and their bounds."""
    (batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v), mask = case
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    _, k_start, k_stop = mask.resolve(batch, n_queries, n_keys)
    for b in range(batch):
        for x in (k, v):
            x[b, :, : k_start[b]] = np.nan
            x[b, :, k_stop[b] :] = np.nan
    return (q, k, v), mask


def exact(inputs, mask, scale, dtype=np.float64):
    return attention_forward(*(x.astype(dtype) for x in inputs), mask, scale)


def assert_as_close(got, plain, truth):
    """No further from float64 than 4 times the definition in float32 is, which sums the same terms in another order.

    8 roundings of the largest value are added, as the definition's error happens to be nearly 0 in small cases.
    """
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    if finite.any():
        largest = np.abs(truth[finite]).max()
        allowed = 4 * np.abs(plain[finite] - truth[finite]).max() + 8 * np.finfo(np.float32).eps * largest
        assert np.abs(got[finite] - truth[finite]).max() <= allowed


def assert_rounded(z, inputs, mask, scale):
    """Weights and results are rounded to bfloat16, relative error 2⁻⁸ each: of Σ w |v| and of |z|."""
    q, k, v = inputs
    truth, lse, _ = exact(inputs, mask, scale)
    absolute, _, _ = exact((q, k, np.abs(v)), mask, scale)
    bound = 2.0**-8 * (absolute + np.abs(truth)) * (1 + 2.0**-7) + 1e-5  # float32's part, and the second order
    assert (np.abs(z.astype(np.float64) - truth) <= bound).all()
    assert not z[np.isneginf(lse)].any()


@pytest.mark.parametrize("case", CASES)
def test_forward(case, rng):
    inputs, mask = make(CASES[case], np.float32, rng)
    z, lse = launch.forward(*inputs, mask, 0.4, TILE)
    for got, plain, truth in zip(
        (z, lse), exact(inputs, mask, 0.4, np.float32), exact(inputs, mask, 0.4), strict=False
    ):
        assert_as_close(got, plain, truth)
    assert not z[np.isneginf(lse)].any()


@pytest.mark.parametrize("case, with_dlse", [*((case, True) for case in CASES), ("masked rows", False)], ids=str)
def test_backward(case, with_dlse, rng):
    inputs, mask = make(CASES[case], np.float32, rng)
    z, lse, plain_saved = exact(inputs, mask, 0.4, np.float32)
    dz, dlse = (rng.standard_normal(x.shape).astype(np.float32) for x in (z, lse))
    dlse = dlse if with_dlse else None
    got = launch.backward(*inputs, z, lse, dz, dlse, mask, 0.4, TILE)
    plain = attention_backward(dz, plain_saved, dlse)
    _, _, saved = exact(inputs, mask, 0.4)
    assert not got[0][np.isneginf(lse)].any()
    for x, gradient in zip(inputs[1:], got[1:], strict=True):
        assert not gradient[np.isnan(x)].any()
    for one, other, truth in zip(got, plain, attention_backward(dz.astype(np.float64), saved, dlse), strict=True):
        assert_as_close(one, other, truth)


@pytest.mark.parametrize("case, splits, warps", list(zip(DECODES, (3, 1, 1), (1, 2, 2), strict=True)), ids=str)
def test_decode(case, splits, warps, rng):
    inputs, mask = make(DECODES[case], np.float32, rng)
    got = launch.decode(*inputs, mask, 0.4, splits, warps)
    for one, plain, truth in zip(got, exact(inputs, mask, 0.4, np.float32), exact(inputs, mask, 0.4), strict=False):
        assert_as_close(one, plain, truth)
    assert not got[0][np.isneginf(got[1])].any()


# both halves of a warp's 16 rows, and three tiles of keys: maxima move from tile to tile
ON_TENSOR_CORES = {**CASES, "several tiles": ((1, 1, 1, 1, 18, 37, 8, 8), Mask())}


@pytest.mark.parametrize("case", ON_TENSOR_CORES)
def test_forward_on_tensor_cores(case, rng):
    inputs, mask = make(ON_TENSOR_CORES[case], BFLOAT16, rng)
    z, lse = launch.forward_bf16(*inputs, mask, 1.2, TILE_BF16)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, 1.2)
    assert_as_close(lse, exact(inputs, mask, 1.2, np.float32)[1], exact(inputs, mask, 1.2)[1])


# 16 keys a step: two steps, and parts of one
@pytest.mark.parametrize("case, splits, warps", list(zip(DECODES, (3, 1, 3), (2, 1, 2), strict=True)), ids=str)
def test_decode_on_tensor_cores(case, splits, warps, rng):
    inputs, mask = make(DECODES[case], BFLOAT16, rng)
    z, lse = launch.decode(*inputs, mask, 1.2, splits, warps)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, 1.2)
    assert_as_close(lse, exact(inputs, mask, 1.2, np.float32)[1], exact(inputs, mask, 1.2)[1])


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
    """The engine's own choices of kernels, with blocks that can be simulated."""
    monkeypatch.setattr(launch, "forward", partial(launch.forward, tile=TILE))
    monkeypatch.setattr(launch, "backward", partial(launch.backward, tile=TILE))
    monkeypatch.setattr(launch, "forward_bf16", partial(launch.forward_bf16, tile=TILE_BF16))
    monkeypatch.setattr(launch, "decode", partial(launch.decode, warps=1))
    monkeypatch.setattr(engine, "MOST_DECODE_ROWS", 4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n_queries", [1, 5], ids=["decode", "forward"])
def test_engine(dtype, n_queries, small, rng):
    """Kernels chosen by the engine; views of a cache as inputs, every dtype forwards and backwards."""
    case = ((1, 2, 1, 1, n_queries, 9, 8, 4), Mask(k_start=2))
    inputs, mask = make(case, BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype), rng)
    in_cache = [inputs[0], *(np.concatenate([x, x], axis=2)[:, :, :9] for x in inputs[1:])]
    assert not in_cache[1].flags.c_contiguous or in_cache[1].shape[1] == 1
    z, lse = engine.run(*in_cache, mask, 0.4)
    assert z.dtype == inputs[0].dtype
    assert lse.dtype == np.float32
    dz = rng.standard_normal(z.shape).astype(z.dtype)
    state = engine.State(*in_cache, z, lse, mask, 0.4, False)
    _, _, saved = exact(inputs, mask, 0.4)
    unit = {"float32": 2.0**-20, "float16": 2.0**-9, "bfloat16": 2.0**-6}[dtype]  # some roundings of the dtype
    for got, truth in zip(
        (z, *engine.run_backward(dz, state, None)),
        (exact(inputs, mask, 0.4)[0], *attention_backward(dz.astype(np.float64), saved)),
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


def test_what_counts_as_wide(rng):
    x = np.zeros((2, 3, 5, 8), np.float32)
    assert arrays.is_wide(x, x[:, :, 1:])
    assert not arrays.is_wide(x, x[..., 1:])  # rows begin 4 bytes later
    assert not arrays.is_wide(x[..., :6].copy())  # 24 bytes
    assert arrays.rows(x[:, :, ::2]) is not x[:, :, ::2]
    assert arrays.rows(x[..., ::2]).strides[-1] == 4
    turned = x[:, :, ::-1]
    assert arrays.rows(turned).strides[2] > 0


def test_the_engine_refuses_to_run_simulated():
    assert "NUMBA_ENABLE_CUDASIM" in engine.why_not()
