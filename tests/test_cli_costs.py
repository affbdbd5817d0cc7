"""gta-ref costs as a user types it."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from gta_ref import cli, files
from gta_ref.lm import model, model_files, run_files, small, train
from gta_ref.lm.text import Text
from gta_ref.mechanisms import gta
from gta_ref.weights import load, pretrained

WHY_NOT = pretrained.why_not("smollm2")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["costs", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "160"})


def test_the_papers_comparison(tmp_path):
    out = tmp_path / "out.json"
    result = run("--models", "gta-1b,gqa-1b", "--batch", 32, "--length", 4096, "--hardware", "h100", "--convention",
                 "llm-viewer", "--json", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    for name, stage, want in (
        ("gqa-1b", "prefill", "1.86503"),
        ("gta-1b", "prefill", "0.765305"),
        ("gqa-1b", "decode", "0.00410224"),
        ("gta-1b", "decode", "0.00176908"),
    ):
        assert f"{found['models'][name][stage]['seconds']:.6g}" == want
        assert want in result.output
    assert found["ratios"]["gta-1b"]["cache"] == pytest.approx(0.3, abs=1e-15)
    assert found["ratios"]["gta-1b"]["attention"] == 0.375
    assert found["setting"]["hardware"]["bandwidth"] == 3072e9
    assert "gta-1b ÷ gqa-1b" in result.output


def test_other_sizes(tmp_path):
    sizes = tmp_path / "mine.json"
    sizes.write_text(json.dumps([{"mechanism": "mha"}, {"mechanism": "gva", "n_q": 5, "name": "shared"}]))
    mla = "mla latent_dim=256 nope_dim=64 rope_dim=32 value_dim=64"
    result = run("--model", mla, "--models", f"{sizes},gqa-1b", "--fused", "--json", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "o.json").read_text())
    assert list(found["models"]) == [mla, "mine", "shared", "gqa-1b"]
    assert found["models"][mla]["cache_elements"] == 288
    assert found["ratios"]["mine"]["cache"] == 4.0


@pytest.fixture
def converted(tmp_path):
    """A file as gta-ref convert writes it, of a tiny model whose layers differ."""
    layers = (gta.Config(16, 4, 4, 4, 2, 1, 8, bias=False), gta.Config(16, 4, 4, 1, 1, 1, 6, bias=False))
    config = model.Config(20, 2, 8, layers)
    params = model.init(config, np.random.default_rng(0))
    path = tmp_path / "gta.safetensors"
    model_files.save(path, model_files.Content(config, params, "smollm2", 99))
    return path, config, params


def test_a_converted_model(converted, tmp_path):
    path, config, params = converted
    result = run("--models", f"{path},gqa-1b", "--length", 7, "--dtype", "float32", "--json", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "o.json").read_text())["models"]["gta"]
    assert found["parameters"] == sum(p.size for p in params.values())
    assert found["cache_bytes"] == sum(cache.nbytes for cache in model.new_caches(config, 1, 7))
    assert (found["cache_elements"], found["attention_macs"]) == ((16 + 10) / 2, (4 * 12 + 10) / 2)
    assert "gta: its layers differ in size; elements and MACs per layer are means over them" in result.output
    assert " 13.0 " in result.output
    assert "gqa-1b: its layers" not in result.output


def test_the_tensors_of_a_model_are_not_read(converted, monkeypatch):
    monkeypatch.setattr(files, "read_tensors", None)
    monkeypatch.setattr(load, "read_tensors", None)
    assert run("--models", converted[0]).exit_code == 0


def test_a_trained_model(tmp_path):
    config, text = small.config("gta", hidden_size=64, n_layers=2), np.zeros(999, np.uint8)
    train.save(tmp_path / "run.safetensors", train.begin(config, train.Settings(), Text("none", text, text)))
    result = run("--models", tmp_path / "run.safetensors", "--json", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "o.json").read_text())["models"]["run"]
    assert found["parameters"] == small.n_parameters(config)
    assert "differ" not in result.output


@pytest.mark.skipif(WHY_NOT is not None, reason=f"the pretrained model: {WHY_NOT}")
def test_smollm2_has_the_costs_of_docs_costs(tmp_path):
    result = run("--models", "smollm2", "--json", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "o.json").read_text())["models"]["smollm2"]
    sizes = found["cache_elements"], found["cache_bytes_per_token"], found["parameters"]
    assert sizes == (384, 23_040, 134_515_008)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({}, "not a language model; expected a file of gta-ref train or gta-ref convert"),
        ({"format": model_files.FORMAT}, "an incomplete language model ('model')"),
        ({"format": model_files.FORMAT, "model": "{"}, "Expecting property name"),
        ({"format": model_files.FORMAT, "model": '{"config": {}}'}, "config: missing"),
        ({"format": run_files.FORMAT, "run": "[1]"}, "an incomplete language model"),
    ],
)
def test_a_damaged_model_file_is_one_line(metadata, message, tmp_path):
    path = tmp_path / "m.safetensors"
    files.write_tensors(path, {"x": np.zeros(3)}, metadata)
    result = run("--models", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gta-ref: {path}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_truncated_model_file_is_one_line(converted):
    path = converted[0]
    path.write_bytes(path.read_bytes()[:-1])
    result = run("--models", path)
    assert result.exit_code == 2
    assert f"{path}: not a complete safetensors file" in result.stderr


def test_frontier_and_design(tmp_path):
    for command, key in (("frontier", "ratio"), ("design", "choices")):
        picture = tmp_path / f"{command}.png"
        result = run(command, "--out", picture)
        assert result.exit_code == 0, result.output
        assert imread(picture).shape[0] > 500
        assert json.loads(picture.with_suffix(".json").read_text())[key]
    found = json.loads((tmp_path / "frontier.json").read_text())
    assert found["reached"]["prefill fused"]["2"][0] > found["reached"]["prefill unfused"]["2"][0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--models", "gta-1b,gta-9b"], "model='gta-9b' must be one of 'gta-1b', 'gqa-1b', 'smollm2'"),
        (["--models", ""], "models='' must name at least one model"),
        (["--models", "gta-1b,gqa-1b,gta-1b"], "models: the name 'gta-1b' is there twice; expected different names"),
        (["--models", "nothing.json"], "nothing.json: No such file or directory"),
        (["--models", "nothing.safetensors"], "nothing.safetensors: no such file"),
        (["--models", "nothing.gguf"], "nothing.gguf: no such file"),
        (["--model", "gta n_q=3 n_k=1 n_c=1 latent_dim=8"], "n_q=3 must divide n_heads=20"),
        (["--hardware", "abacus"], "hardware='abacus' must be one of h100"),
        (["--length", "-4"], "length=-4 must be a whole number of at least"),
        (["--batch", "0"], "batch=0 must be a whole number of at least 1"),
        (["--convention", "mine"], "convention='mine' must be one of 'moved', 'llm-viewer'"),
        (["--dtype", "int4"], "dtype='int4' must be one of"),
        (["--length", "9999999"], "length=9999999 at batch=1: weights and cache of gta-1b need 209,61"),
        (["design", "--n-heads", "0"], "n_heads=0 must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_damaged_file_of_sizes(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    result = run("--models", tmp_path / "bad.json")
    assert result.exit_code == 2
    assert "bad.json: not a JSON file" in result.stderr
