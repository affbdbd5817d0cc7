"""The compiled RMSNorm and SwiGLU agree with gta_ref.ops, which tests/ops compares with formulas and differences."""

import numpy as np
import pytest

from gta_ref import ops
from gta_ref.lm import block, compiled, model, small

SHAPES = [(3, 5, 37), (1, 1, 1), (2, 64, 128), (7, 16), (2, 0, 8)]


def close(got, wanted, dtype, terms=1, of=None):
    """Allow a few roundings of the largest value (of what is subtracted), and for a sum one more for each term."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype == dtype
    if wanted.size:
        largest = np.abs(wanted if of is None else of).max()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=(8 + terms) * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_swiglu(shape, dtype, rng):
    a, b, dy = (4 * rng.standard_normal((3, *shape))).astype(dtype)
    (y, saved), (wanted, wanted_saved) = compiled.swiglu_forward(a, b), ops.swiglu_forward(a, b)
    close(y, wanted, dtype)
    for got, grad in zip(compiled.swiglu_backward(dy, saved), ops.swiglu_backward(dy, wanted_saved), strict=True):
        close(got, grad, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_rmsnorm(shape, dtype, rng):
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    g = rng.standard_normal(shape[-1]).astype(dtype)
    (y, saved), (wanted, wanted_saved) = compiled.rmsnorm_forward(x, g, 1e-3), ops.rmsnorm_forward(x, g, 1e-3)
    close(y, wanted, dtype)
    close(saved[2], wanted_saved[2], dtype)
    (dx, dg), (wanted_dx, wanted_dg) = compiled.rmsnorm_backward(dy, saved), ops.rmsnorm_backward(dy, wanted_saved)
    close(dx, wanted_dx, dtype, terms=shape[-1], of=dy * g * saved[2])
    close(dg, wanted_dg, dtype, terms=int(np.prod(shape[:-1])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_numbers(dtype):
    a = np.array([-np.inf, -1e4, -800, -87, -20, -0.0, 0, 1e-30, 20, 89, 800, 1e4, np.inf, np.nan], dtype)
    one, tiny = np.ones_like(a), np.finfo(dtype).tiny
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, wanted_saved = ops.swiglu_forward(a, one)
        wanted_grads = ops.swiglu_backward(one, wanted_saved)
    y, saved = compiled.swiglu_forward(a, one)
    # e^a is computed as 2^(a log₂ e), whose rounded exponent costs |a| roundings of the result; below `tiny` it is 0
    rounding = (8 + np.abs(np.nan_to_num(a, posinf=0, neginf=0))) * np.finfo(dtype).eps
    for got, want in zip((y, *compiled.swiglu_backward(one, saved)), (wanted, *wanted_grads), strict=True):
        finite = np.isfinite(want)
        allowed = rounding * np.abs(want) + 1e4 * tiny
        assert (np.abs(got[finite] - want[finite]) <= allowed[finite]).all()
        np.testing.assert_array_equal(got[~finite], want[~finite])
    x = np.stack([a, 0 * one])  # a row with NaN and infinity, and one of zeros
    with np.errstate(invalid="ignore"):
        wanted, _ = ops.rmsnorm_forward(x, one)
    np.testing.assert_allclose(compiled.rmsnorm_forward(x, one)[0], wanted)


def test_arrays_that_do_not_lie_in_a_row(rng):
    a, b, dy = rng.standard_normal((3, 6, 4, 10)).transpose(0, 2, 1, 3)[..., ::2]
    g = rng.standard_normal(10)[::2]
    a.flags.writeable = g.flags.writeable = False
    close(compiled.swiglu_forward(a, b)[0], ops.swiglu_forward(a, b)[0], np.float64)
    (dx, dg), wanted = (m.rmsnorm_backward(dy, m.rmsnorm_forward(a, g)[1]) for m in (compiled, ops))
    close(dx, wanted[0], np.float64, terms=5)
    close(dg, wanted[1], np.float64, terms=24)


def test_which_engine_takes_them():
    few, many = np.zeros((1, 4, 16), np.float32), np.zeros((2, 128, 64), np.float32)
    assert many.size == block.LEAST
    assert block.rows_by("auto", few) is block.rows_by("reference", many) is block.rows_by("cuda", many) is ops
    assert block.rows_by("auto", many) is block.rows_by("numba", few) is compiled
    assert block.rows_by("numba", many.astype(np.float16)) is ops  # rounded after every operation, as defined
    assert block.rows_by("numba", many.astype(">f4")) is ops
    assert block.rows_by("numba", ops.as_dtype("bfloat16").type(0) + np.zeros((2, 3), "bfloat16")) is ops


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_on_them_has_the_gradient_of_the_definition(tied, rng):
    config = small.config("gta", vocab_size=32, hidden_size=32, n_layers=2)
    config = model.Config(config.vocab_size, 2, config.intermediate_size, config.attention, "gta", tied=tied)
    params = model.init(config, rng, "float64")
    ids = rng.integers(0, 32, (2, 9))
    (loss, saved), (wanted, wanted_saved) = (
        model.loss_forward(params, ids, config, engine=engine) for engine in ("numba", "reference")
    )
    assert (saved[1].rows, wanted_saved[1].rows) == (compiled, ops)
    assert abs(loss - wanted) < 1e-13
    wanted_grads = model.loss_backward(wanted_saved)
    for name, grad in model.loss_backward(saved).items():
        np.testing.assert_allclose(grad, wanted_grads[name], rtol=0, atol=1e-12 * np.abs(wanted_grads[name]).max())
