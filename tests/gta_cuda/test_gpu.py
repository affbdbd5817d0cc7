"""The engine "cuda" on a GPU, against the definition in float64. `make test-gpu` runs it; it is skipped elsewhere."""

import numpy as np
import pytest

from gta_cuda.first_run import cases as first_run
from gta_ref.core import Mask, attention_backward, attention_forward, engines
from gta_ref.lm import model
from gta_ref.mechanisms import gta
from gta_ref.ops.arrays import as_dtype
from tests import support

REASON = engines.why_not("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"engine 'cuda': {REASON}"),
    # a machine with a GPU may have newer packages than those that `filterwarnings = error` is known to hold for
    pytest.mark.filterwarnings("default"),
]

# those of every engine, and those of the first run
CASES = {**support.CASES, **{name: (case[:-1], case.mask) for name, case in first_run.CASES.items()}}
ERROR = first_run.ALLOWED  # norm of the error over norm of the result


def make(case, dtype, rng):
    (batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v), mask = case
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v = (rng.standard_normal(shape).astype(as_dtype(dtype)) for shape in shapes)
    support.unused_is_nan(k, v, mask, n_queries)
    return (q, k, v), mask


def assert_close(got, truth, allowed):
    got = got.get().astype(np.float64)
    assert np.isfinite(got).all()
    assert np.linalg.norm(got - truth) <= allowed * max(np.linalg.norm(truth), 1e-3)


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("case", CASES)
def test_against_float64(case, dtype, rng):
    import cupy

    inputs, mask = make(CASES[case], dtype, rng)
    z, lse, saved = attention_forward(*(cupy.asarray(x) for x in inputs), mask=mask, engine="cuda")
    exact_z, exact_lse, exact_saved = attention_forward(
        *(x.astype(np.float64) for x in inputs), mask=mask, engine="reference"
    )
    finite = np.isfinite(exact_lse)
    assert z.dtype.name == dtype
    np.testing.assert_array_equal(np.isfinite(lse.get()), finite)
    np.testing.assert_allclose(lse.get()[finite], exact_lse[finite], rtol=1e-5, atol=1e-5)
    assert not z.get()[~finite].any()
    assert_close(z, exact_z, ERROR[dtype])
    dz, dlse = rng.standard_normal(z.shape).astype(z.dtype), rng.standard_normal(lse.shape).astype(np.float32)
    grads = attention_backward(cupy.asarray(dz), saved, dlse=cupy.asarray(dlse))
    for got, truth in zip(grads, attention_backward(dz.astype(np.float64), exact_saved, dlse=dlse), strict=True):
        assert_close(got, truth, 2 * ERROR[dtype])  # z, and delta with it, is rounded before the backward


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_continues_a_view_of_a_cache(dtype, rng):
    """Slots after the view hold NaN, and nothing is copied."""
    import cupy

    (q, k, v), _ = make(((2, 5, 1, 1, 1, 300, 64, 128), Mask()), dtype, rng)
    k[:, :, 260:], v[:, :, 260:] = np.nan, np.nan
    on_gpu = [cupy.asarray(x) for x in (q, k, v)]
    z, _, _ = attention_forward(on_gpu[0], on_gpu[1][:, :, :260], on_gpu[2][:, :, :260], engine="cuda")
    exact, _, _ = attention_forward(
        *(x.astype(np.float64) for x in (q, k[:, :, :260], v[:, :, :260])), engine="reference"
    )
    assert_close(z, exact, ERROR[dtype])


def test_the_current_stream_is_used(rng):
    import cupy

    inputs, mask = make(CASES["GTA-1B"], "float32", rng)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        on_gpu = [cupy.asarray(x) for x in inputs]
        z, _, _ = attention_forward(*on_gpu, mask=mask, engine="cuda")
        stream.synchronize()
        assert_close(
            z,
            attention_forward(*(x.astype(np.float64) for x in inputs), mask=mask, engine="reference")[0],
            ERROR["float32"],
        )


def test_another_device_is_the_current_one(rng):
    """Intermediate arrays are allocated on the device of the inputs, even if another one is the current device."""
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    inputs, mask = make(CASES["GTA-1B"], "float32", rng)
    on_gpu = [cupy.asarray(x) for x in inputs]
    with cupy.cuda.Device(1):
        z, _, saved = attention_forward(*on_gpu, mask=mask, engine="cuda")
        grads = attention_backward(z, saved)
    assert all(x.device.id == 0 for x in (z, *grads))
    assert_close(
        z,
        attention_forward(*(x.astype(np.float64) for x in inputs), mask=mask, engine="reference")[0],
        ERROR["float32"],
    )


def test_equal_from_run_to_run(rng):
    import cupy

    inputs, mask = make(CASES["GTA-1B"], "float32", rng)
    on_gpu = [cupy.asarray(x) for x in inputs]
    runs = []
    for _ in range(2):
        z, lse, saved = attention_forward(*on_gpu, mask=mask, engine="cuda")
        runs.append([x.get() for x in (z, lse, *attention_backward(z, saved))])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_whole_layer(rng):
    import cupy

    config = gta.Config.preset("gta-1b")
    params = gta.init(config, rng, "float64")
    x = rng.standard_normal((2, 70, config.hidden_size))
    mask = Mask(k_start=[0, 9])
    out, saved = gta.forward(params, x, config, mask=mask, engine="reference")
    dout = rng.standard_normal(out.shape)
    dx, grads = gta.backward(dout, saved)
    on_gpu = {name: cupy.asarray(p.astype(np.float32)) for name, p in params.items()}
    got, got_saved = gta.forward(on_gpu, cupy.asarray(x.astype(np.float32)), config, mask=mask, engine="cuda")
    got_dx, got_grads = gta.backward(cupy.asarray(dout.astype(np.float32)), got_saved)
    assert_close(got, out, 1e-5)
    assert_close(got_dx, dx, 1e-4)
    for name, grad in grads.items():
        assert_close(got_grads[name], grad, 1e-4)


def test_the_tiny_language_model(rng):
    import cupy

    config = model.Config(50, 2, 96, gta.Config(64, 4, 16, n_q=2, n_k=1, n_c=1, latent_dim=32))
    params = model.init(config, rng, "float64")
    ids = rng.integers(0, 50, (2, 33))
    logits, saved = model.forward(params, ids, config, engine="reference")
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(dlogits, saved)
    on_gpu = {name: cupy.asarray(p.astype(np.float32)) for name, p in params.items()}
    got, got_saved = model.forward(on_gpu, cupy.asarray(ids), config, engine="cuda")
    got_grads = model.backward(cupy.asarray(dlogits.astype(np.float32)), got_saved)
    assert_close(got, logits, 1e-5)
    for name, grad in grads.items():
        assert_close(got_grads[name], grad, 1e-4)


def test_numpy_arrays_when_asked_for(rng):
    from gta_cuda.engine import accept_numpy

    inputs, mask = make(CASES["causal"], "float32", rng)
    with accept_numpy():
        z, _, saved = attention_forward(*inputs, mask=mask, engine="cuda")
    assert isinstance(z, np.ndarray)
    assert all(isinstance(grad, np.ndarray) for grad in attention_backward(z, saved))


def test_the_benchmark_runs():
    from gta_ref.bench import gpu

    found = gpu.run(against_torch=False, quick=True)
    assert not list(gpu.faults(found))
    for case in found["cases"]:
        assert case["contestants"]["cuda"]["host"]["seconds"] > 0
        assert case["contestants"]["cuda"]["kernel"]["seconds"] > 0
