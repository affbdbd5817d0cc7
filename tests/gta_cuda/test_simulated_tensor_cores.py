"""The bfloat16 forward and decode on tensor cores in Numba's simulator, against float64; `make test-cudasim` runs it."""

import numpy as np
import pytest

from gta_cuda import emulated, forward_bf16, launch
from gta_ref.core import Mask
from tests.gta_cuda.simulated import (
    BFLOAT16,
    CASES,
    DECODES,
    TILE_BF16,
    assert_as_close,
    assert_rounded,
    exact,
    make,
)

pytestmark = pytest.mark.usefixtures("watch")

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


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7F800001])
def test_nan_stays_nan_when_it_is_rounded(bits):
    """Memory that was never written is NaN here; if rounding made it a number, the error would go unnoticed."""
    nan = np.uint32(bits).view(np.float32)
    pair = emulated.pack_bf16(nan, np.float32(1))
    low, high = np.array([pair & 0xFFFF, pair >> 16], np.uint16).view(BFLOAT16)
    assert np.isnan(low)
    assert high == 1
