"""gta-ref bench lm: the peer computes the same model, and a wrong one is not timed."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from gta_ref.bench import lm
from gta_ref.lm import small, text, train

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed; make interop"
)


def letters():
    content = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8)
    return text.Text("random", content, content)


@pytest.fixture
def few(monkeypatch):
    settings = dataclasses.replace(lm.SETTINGS, batch=2, length=32)
    monkeypatch.setattr(lm, "SETTINGS", settings)
    return settings


def test_figures(few):
    found = lm.measure("gta", letters(), False, 2)
    assert found["parameters"] == small.n_parameters(small.config("gta"))
    assert list(found["contestants"]) == ["numba", "reference"]
    assert found["error"] is None
    for c in found["contestants"].values():
        assert c["tokens_per_second"] == pytest.approx(64 / c["seconds"])
    assert found["contestants"]["numba"]["times_numba"] == 1


@needs_torch
@pytest.mark.parametrize("name", lm.MODELS)
def test_the_peer_trains_the_same_model(name, few):
    from gta_ref.bench.lm_torch import Model

    config, source = small.config(name, hidden_size=32, n_layers=2), letters()
    run = train.begin(config, dataclasses.replace(few, warmup=1, steps=10**6), source)
    peer = Model(config, run.state.params, run.settings)
    assert lm.gradient_error(config, peer, source.batch(np.random.default_rng(5), 2, 32)) < 1e-5
    for step in range(1, 6):
        batch = source.batch(np.random.default_rng([0, step]), 2, 32)
        theirs = peer.step(*batch)
        run.state, ours = train.take_step(run, source)  # draws the same batch
        assert ours == pytest.approx(theirs, rel=1e-5), step


@needs_torch
def test_a_wrong_peer_is_not_timed(few, monkeypatch):
    from gta_ref.bench import lm_torch

    monkeypatch.setattr(lm_torch.Model, "_rope", lambda self, x: x)
    found = lm.measure("gta", letters(), True, 1)
    assert found["wrong"]
    assert found["contestants"] == {}
    assert found["error"] > lm.ALLOWED


@needs_torch
def test_the_peer_says_what_it_can(few):
    from gta_ref.bench.lm_torch import Model

    with pytest.raises(ValueError, match="mechanism='mla' must be 'gta' or 'gqa'"):
        Model(small.config("mla"), {}, few)
