"""The engine "cuda" in Numba's simulator: what it chooses, how it cuts the work, and calls that are empty or odd."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from gta_cuda import arrays, backward_bf16, backward_bf16_queries, engine, launch, launch_backward, merge
from gta_ref.core import Mask, attention_backward
from tests.gta_cuda.simulated import BFLOAT16, CASES, TILE, TILE_BF16, exact, make

pytestmark = pytest.mark.usefixtures("watch")


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


def test_the_engine_refuses_to_run_simulated():
    assert "NUMBA_ENABLE_CUDASIM" in engine.why_not()
