"""gta-ref costs as a user types it."""

import json

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from gta_ref import cli


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
        (["--models", "gta-1b,gta-9b"], "model='gta-9b' must be one of 'gta-1b', 'gqa-1b'"),
        (["--models", ""], "models='' must name at least one model"),
        (["--models", "gta-1b,gqa-1b,gta-1b"], "models: the name 'gta-1b' is there twice; expected different names"),
        (["--models", "nothing.json"], "nothing.json: No such file or directory"),
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
