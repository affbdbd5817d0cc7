"""gta-ref bench lm: the PyTorch model computes the same as ours, and one with wrong gradients is not timed."""

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
    found = lm.run(False, True)
    assert list(found["models"]) == list(small.NAMES)
    for name, measured in found["models"].items():
        assert measured["parameters"] == small.n_parameters(small.config(name))
        assert list(measured["contestants"]) == (["numba", "reference"] if name in ("gta", "gqa") else ["numba"])
        assert measured["error"] is None
        for c in measured["contestants"].values():
            assert c["tokens_per_second"] == pytest.approx(64 / c["seconds"])
        assert measured["contestants"]["numba"]["times_numba"] == 1
    assert found["models"]["gqa"]["times_gqa"] == 1


@needs_torch
@pytest.mark.parametrize("name", lm.AGAINST)
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

    right = lm_torch.Model._gta
    monkeypatch.setattr(lm_torch.Model, "_gta", lambda self, w, x: 0.9 * right(self, w, x))
    found = lm.run(True, True)["models"]
    assert "torch eager" not in found["gta"]["contestants"]
    assert not found["gta"]["error"] <= lm.ALLOWED
    assert "torch eager" in found["gqa"]["contestants"]


@needs_torch
def test_the_peer_says_what_it_can(few):
    from gta_ref.bench.lm_torch import Model

    with pytest.raises(ValueError, match="mechanism='mla' must be 'gta' or 'gqa'"):
        Model(small.config("mla"), {}, few)
