"""AdamW, number by number; the schedule; clipping."""

import itertools
import math

import numpy as np
import pytest

from gta_ref.lm import optimizer


def test_three_steps_by_hand(rng):
    params = {"w": rng.standard_normal((2, 3)), "b": rng.standard_normal(3)}
    grads = [{name: rng.standard_normal(p.shape) for name, p in params.items()} for _ in range(3)]
    rates, decay = [0.1, 0.05, 0.2], 0.3
    before = {name: p.copy() for name, p in params.items()}
    found, moments = params, optimizer.zeros(params)
    for t in range(3):
        found, moments = optimizer.step(found, grads[t], moments, t + 1, rates[t], decay)
    for name, start in before.items():
        np.testing.assert_array_equal(params[name], start)  # nothing is written in place
        for i in np.ndindex(start.shape):
            theta, m, v = float(start[i]), 0.0, 0.0
            for t in range(3):
                g = float(grads[t][name][i])
                m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
                unbiased = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.95 ** (t + 1))
                shrink = decay * theta if name == "w" else 0.0
                theta -= rates[t] * (unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8) + shrink)
            assert found[name][i] == pytest.approx(theta, rel=1e-12)


def test_float32_stays(rng):
    params = {"w": rng.standard_normal((2, 3), np.float32)}
    found, moments = optimizer.step(params, params, optimizer.zeros(params), 1, 0.1, 0.1)
    clipped, _ = optimizer.clip(params, 1e-3)
    assert {x.dtype for x in (found["w"], moments.m["w"], moments.v["w"], clipped["w"])} == {np.dtype("float32")}


def test_schedule():
    rates = [optimizer.learning_rate(t, 110, 2.0, 10, 0.1) for t in range(1, 111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(2.0)
    assert rates[59] == pytest.approx(1.1)  # half-way from 2.0 down to 0.2
    assert rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert optimizer.learning_rate(3, 3, 2.0, 10, 0.1) == pytest.approx(0.6)  # a run shorter than its warm-up


def test_clip(rng):
    grads = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
    same, found = optimizer.clip(grads, 2 * norm)
    assert found == pytest.approx(norm, rel=1e-14)
    for name, g in grads.items():
        np.testing.assert_array_equal(same[name], g)
    half, found = optimizer.clip(grads, norm / 2)
    assert found == pytest.approx(norm, rel=1e-14)
    for name, g in grads.items():
        np.testing.assert_allclose(half[name], g / 2, rtol=1e-14)
    _, found = optimizer.clip({"a": np.array([1.0, np.nan])}, 1.0)
    assert math.isnan(found)
