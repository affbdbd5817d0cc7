"""RoPE's scaled frequencies against what they are said to do, pair by pair."""

import math

import numpy as np
import pytest

from gta_ref.ops import rope_forward
from gta_ref.ops.rope import rope_angles
from gta_ref.ops.rope_scaling import (
    linear_frequencies,
    llama3_frequencies,
    plain_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)

D, THETA, LENGTH = 128, 500000.0, 8192  # Llama 3.1
PLAIN = np.array([THETA ** (-2 * t / D) for t in range(D // 2)])
TURNS = LENGTH * PLAIN / (2 * math.pi)  # within the original context


def test_plain_and_linear():
    np.testing.assert_allclose(plain_frequencies(D, THETA), PLAIN, rtol=1e-14)
    np.testing.assert_array_equal(linear_frequencies(D, THETA, 4.0), plain_frequencies(D, THETA) / 4)


def test_llama3_by_wavelength():
    got = llama3_frequencies(D, THETA, 8.0, 1.0, 4.0, LENGTH)
    np.testing.assert_array_equal(got[TURNS > 4], plain_frequencies(D, THETA)[TURNS > 4])
    np.testing.assert_array_equal(got[TURNS < 1], plain_frequencies(D, THETA)[TURNS < 1] / 8)
    between = (TURNS > 1) & (TURNS < 4)
    assert between.sum() > 3
    for f, g, turns in zip(PLAIN[between], got[between], TURNS[between], strict=True):
        assert g == pytest.approx(f / 8 + (f - f / 8) * (turns - 1) / 3, rel=1e-13)


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_by_turns(truncate):
    got = yarn_frequencies(D, THETA, 8.0, LENGTH, 32.0, 1.0, truncate)
    # a rounded border moves by less than a pair
    kept, divided = (TURNS > 32), (TURNS < 1)
    if truncate:
        kept, divided = np.roll(kept, -1) & kept, np.roll(divided, 1) & divided
    np.testing.assert_allclose(got[kept], PLAIN[kept], rtol=1e-14)
    np.testing.assert_allclose(got[divided], PLAIN[divided] / 8, rtol=1e-14)
    share = (got / PLAIN - 1 / 8) / (1 - 1 / 8)  # of the plain frequency
    between = (share > 1e-9) & (share < 1 - 1e-9)
    assert between.sum() > 10
    assert (np.diff(share) <= 1e-15).all()
    steps = np.diff(share[between])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)  # linear in t
    borders = [D * math.log(LENGTH / (2 * math.pi * turns)) / (2 * math.log(THETA)) for turns in (32, 1)]
    if truncate:
        borders = [math.floor(borders[0]), math.ceil(borders[1])]
    assert -1 / steps[0] == pytest.approx(borders[1] - borders[0], rel=1e-9)


def test_yarn_where_the_mixture_has_no_width():
    got = yarn_frequencies(8, 10000.0, 4.0, 10**9, 2.0, 1.0)  # all pairs turn often
    np.testing.assert_array_equal(got, plain_frequencies(8, 10000.0))
    got = yarn_frequencies(8, 10000.0, 4.0, 1, 2.0, 1.0)  # none turns once: both borders are 0
    np.testing.assert_array_equal(got, np.where(np.arange(4) > 0, 1 / 4, 1) * plain_frequencies(8, 10000.0))


def test_yarns_magnitude():
    assert yarn_magnitude(1.0) == yarn_magnitude(0.5) == 1.0
    assert yarn_magnitude(40.0, 0.707) ** 2 == pytest.approx(1.5896, abs=1e-4)
    assert yarn_magnitude(40.0) ** 2 == pytest.approx(1.8739, abs=1e-4)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_a_part_of_a_head_is_turned_as_a_narrower_head(rng, pairing):
    x = rng.standard_normal((2, 3, 5, 10))
    tables = rope_angles(np.arange(5), 10, frequencies=(0.3, 0.2, 0.1), magnitude=1.5)
    narrow = rope_angles(np.arange(5), 6, frequencies=(0.3, 0.2, 0.1))
    y, _ = rope_forward(x, *tables, pairing)
    np.testing.assert_array_equal(y[..., 6:], x[..., 6:])
    np.testing.assert_allclose(y[..., :6], 1.5 * rope_forward(x[..., :6], *narrow, pairing)[0], rtol=1e-15, atol=1e-15)


def test_bfloat16_is_rounded_once(rng):
    import ml_dtypes

    x = rng.standard_normal((1, 1, 5, 10)).astype(ml_dtypes.bfloat16)
    tables = rope_angles(np.arange(5), 10, frequencies=(0.3, 0.2), dtype=np.float32)
    y, _ = rope_forward(x, *tables, "half")
    wide, _ = rope_forward(x.astype(np.float32), *tables, "half")
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, wide.astype(ml_dtypes.bfloat16))
