"""A whole model against the authors' own code (plm-team/GTA d56d00c, run in float64)."""

import numpy as np
import pytest

from gta_ref.lm import generate, model
from gta_ref.weights.official import load_official, save_official

pytestmark = pytest.mark.official


@pytest.fixture(scope="module")
def lm(official):
    case = official("causal_lm_tiny")
    case.model_config, case.params = load_official(case.param, case.config)
    return case


def assert_close(got, want, name):
    assert got.shape == want.shape, name
    assert np.abs(got - want).max() <= 1e-12 * np.abs(want).max(), name


def test_official_logits(lm):
    logits, _ = model.forward(lm.params, lm.input["input_ids"], lm.model_config)
    assert_close(logits, lm.output["logits"], "logits")


def test_official_loss_and_every_gradient(lm):
    loss, saved = model.loss_forward(lm.params, lm.input["input_ids"], lm.model_config)
    assert_close(np.reshape(loss, 1), lm.output["loss"], "loss")
    state = save_official(model.loss_backward(saved), lm.model_config)
    assert state.keys() == lm.grad.keys()
    for name, grad in state.items():
        assert_close(grad, lm.grad[name], name)


def test_official_greedy_continuation(lm):
    want = lm.output["greedy_ids"]
    prompt = lm.input["input_ids"][:, :4]
    got = generate.greedy(lm.params, prompt, lm.model_config, want.shape[1] - 4)
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(want[:, 4:])) > 4  # a continuation of several different tokens


def test_official_logits_token_by_token(lm):
    ids = lm.input["input_ids"]
    caches = model.new_caches(lm.model_config, *ids.shape, "float64")
    steps = [model.decode(lm.params, ids[:, t : t + 1], caches, lm.model_config) for t in range(ids.shape[1])]
    assert_close(np.concatenate(steps, axis=1), lm.output["logits"], "logits")
