"""The gradient of a batch that is computed in parts is that of the whole batch."""

import warnings

import numpy as np
import pytest

from gta_ref.lm import gradient, model, small
from gta_ref.threads import get_threads, set_threads

CONFIG = small.config("gta", vocab_size=32, hidden_size=32, n_layers=2)
IGNORE = -100


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    set_threads(request.param)
    yield request.param
    set_threads(None)


def batch(sequences, length=12, seed=0):
    """Float64 parameters, and a batch whose sequences differ in how many tokens count."""
    rng = np.random.default_rng(seed)
    params = model.init(CONFIG, rng, "float64")
    ids, targets = rng.integers(0, 32, (2, sequences, length))
    targets[rng.random(targets.shape) < 0.4] = IGNORE
    return params, ids, targets


def whole(params, ids, targets):
    loss, saved = model.loss_forward(params, ids, CONFIG, targets=targets, engine="reference")
    return float(loss), model.loss_backward(saved)


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_parts_add_up_to_the_batch(threads, engine):
    params, ids, targets = batch(7)
    loss, grads = gradient.loss_and_gradient(params, ids, targets, CONFIG, engine)
    expected, expected_grads = whole(params, ids, targets)
    assert abs(loss - expected) < 1e-13
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=0, atol=1e-12 * np.abs(grad).max())


@pytest.mark.parametrize(
    "n, sizes",
    # 15: fewer than half of the threads would have a part, so they work inside the operations instead
    [(1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (7, [1] * 7), (14, [1] * 7), (15, [7])],
)
def test_a_part_a_thread_and_a_thread_a_part(n, sizes, monkeypatch):
    seen = []
    forward = model.loss_forward

    def watched(params, ids, *args, **kwargs):
        seen.append((len(ids), get_threads()))
        return forward(params, ids, *args, **kwargs)

    monkeypatch.setattr(model, "loss_forward", watched)
    params, ids, targets = batch(7)
    set_threads(n)
    try:
        gradient.loss_and_gradient(params, ids, targets, CONFIG)
        assert get_threads() == n
    finally:
        set_threads(None)
    assert sorted((size for size, _ in seen), reverse=True) == sizes
    assert {inside for _, inside in seen} == {n if len(sizes) == 1 else 1}


def test_the_same_bits_every_time(threads):
    params, ids, targets = batch(9)
    params = {name: p.astype(np.float32) for name, p in params.items()}
    first, second = (gradient.loss_and_gradient(params, ids, targets, CONFIG, "numba") for _ in range(2))
    assert first[0] == second[0]
    for name, grad in first[1].items():
        np.testing.assert_array_equal(grad, second[1][name])


def test_sequences_in_which_nothing_counts(threads):
    params, ids, targets = batch(5)
    targets[[0, 3]] = IGNORE
    loss, grads = gradient.loss_and_gradient(params, ids, targets, CONFIG)
    expected, expected_grads = whole(params, ids, targets)
    assert abs(loss - expected) < 1e-13
    np.testing.assert_allclose(grads["embed"], expected_grads["embed"], rtol=0, atol=1e-13)
    targets[:] = IGNORE
    with pytest.raises(ValueError, match="no token that counts"):
        gradient.loss_and_gradient(params, ids, targets, CONFIG)


@pytest.mark.parametrize("counts", [True, False])
def test_a_wrong_id_is_named(threads, counts):
    params, ids, targets = batch(6)
    ids[-1, -1] = 32
    if not counts:
        targets[-1] = IGNORE
    with pytest.raises(ValueError, match="the vocabulary"):
        gradient.loss_and_gradient(params, ids, targets, CONFIG)


@pytest.mark.parametrize("sequences", [(8, 6), (6, 8)])
def test_targets_of_other_sequences_are_refused(threads, sequences):
    params, ids, _ = batch(sequences[0])
    _, _, targets = batch(sequences[1])
    with pytest.raises(ValueError, match="targets has shape"):
        gradient.loss_and_gradient(params, ids, targets, CONFIG)


def test_half_precision_is_not_cut_as_it_is_rounded_once(threads):
    params, ids, targets = batch(6)
    params = {name: p.astype(np.float16) for name, p in params.items()}
    _, grads = gradient.loss_and_gradient(params, ids, targets, CONFIG)
    _, expected = whole(params, ids, targets)
    for name, grad in expected.items():
        np.testing.assert_array_equal(grads[name], grad)


def test_what_the_caller_said_of_warnings_holds_in_every_thread(threads):
    params, ids, targets = batch(6)
    params = {name: p.astype(np.float32) for name, p in params.items()}
    params["embed"] *= np.float32(1e30)  # RMSNorm squares it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(over="ignore", invalid="ignore"):
            gradient.loss_and_gradient(params, ids, targets, CONFIG)
    with pytest.warns(RuntimeWarning, match="overflow"):
        gradient.loss_and_gradient(params, ids, targets, CONFIG)
