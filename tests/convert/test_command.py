"""gta-ref convert on a tiny model in place of the pretrained one: its file is read by what reads models."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gta_ref.commands.app import app
from gta_ref.lm import model
from gta_ref.lm.language_model import Bytes, LanguageModel
from gta_ref.mechanisms import gqa
from gta_ref.verify.models import reference
from gta_ref.weights import pretrained
from gta_ref.weights.load import load_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    attention = gqa.Config(24, 6, 4, 2, rope_theta=500.0)
    config = model.Config(256, 3, 32, attention, "gqa")
    found = LanguageModel("tiny", config, model.init(config, np.random.default_rng(0)), Bytes(), 512)
    monkeypatch.setattr(pretrained, "load", lambda name: found)
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name: found.tokenizer)
    return found


def run(*arguments):
    return CliRunner().invoke(app, ["convert", "--quick", *map(str, arguments)])


def test_the_file_is_a_model(tiny, tmp_path):
    out, figures = tmp_path / "gta.safetensors", tmp_path / "gta.json"
    done = run("--n-q", 2, "--n-k", 1, "--d-l", 6, "--layers", "1-2", "--out", out, "--json", figures)
    assert done.exit_code == 0, done.output
    assert "attention maps, all layers" in done.output
    found = load_model(out)
    assert [(one.n_q, one.n_k, one.latent_dim) for one in found.config.layers] == [(6, 2, 6), (2, 1, 6), (2, 1, 6)]
    assert found.context_length == 512
    assert reference.load_reference(out).config == found.config
    about = json.loads(figures.read_text())
    assert about["maps"] == [18, 10]
    assert about["cache_elements"] == [16, (14 + 10 + 10) / 3]
    assert [len(layer["maps"]) for layer in about["layers"]] == [6, 2, 2]
    assert about["tokens"] == 4 * 256
    ids = np.arange(20)[None]
    before, after = (model.forward(m.params, ids, m.config, need_saved=False)[0] for m in (tiny, found))
    assert 0 < np.abs(before - after).mean() < np.abs(before).mean()


def test_nothing_shared_or_cut_is_the_same_model(tiny, tmp_path):
    out, figures = tmp_path / "gta.safetensors", tmp_path / "gta.json"
    assert run("--out", out, "--json", figures).exit_code == 0
    found, ids = load_model(out), np.arange(40)[None]
    before, after = (model.forward(m.params, ids, m.config, need_saved=False)[0] for m in (tiny, found))
    np.testing.assert_allclose(after, before, atol=2e-5)
    for first, second in json.loads(figures.read_text())["loss"].values():
        assert second == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize(
    "layers, shared",
    [("2", [2]), ("0,2", [0, 2]), ("0-1", [0, 1]), ("2,0-1", [0, 1, 2]), ("1,1-2,2", [1, 2]), (None, [0, 1, 2])],
)
def test_layers_that_share(layers, shared, tmp_path):
    out = tmp_path / "gta.safetensors"
    done = run("--n-q", 2, "--n-k", 1, "--out", out, *(("--layers", layers) if layers else ()))
    assert done.exit_code == 0, done.output
    assert [i for i, one in enumerate(load_model(out).config.layers) if (one.n_q, one.n_k) == (2, 1)] == shared
    assert {(one.n_q, one.n_k) for one in load_model(out).config.layers} <= {(2, 1), (6, 2)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--n-q", 4), "n_q=4 must divide n_heads=6"),
        (("--layers", "2-3"), "layers='2-3' must be layers and ranges of them such as 0,2-2"),
        (("--layers", "0,3"), "layers='0,3' must be"),
        (("--layers", "2-1"), "layers='2-1' must be"),
        (("--layers", "0,,1"), "layers='0,,1' must be"),
        (("--layers", "0-1-2"), "layers='0-1-2' must be"),
        (("--layers", "-1"), "layers='-1' must be"),
        (("--layers", "a"), "layers='a' must be"),
        (("--model", "gpt"), "model='gpt' must be"),
        (("--gate", "relu"), "gate='relu' must be one of 'sigmoid', 'none'"),
        (("--out", "gta.gguf"), "must end in .safetensors"),
    ],
)
def test_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert list(tmp_path.iterdir()) == []
