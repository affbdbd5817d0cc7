"""The float32 kernels in Numba's simulator, against the engine "reference" in float64. `make test-cudasim` runs it."""

import numpy as np
import pytest

from gta_cuda import launch, merge
from gta_ref.core import attention_backward
from tests.gta_cuda.simulated import CASES, DECODES, TILE, assert_as_close, exact, make

pytestmark = pytest.mark.usefixtures("watch")


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
