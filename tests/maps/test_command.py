"""The texts that gta-ref maps reads, the command as a user types it, and what the tour shows of a real model."""

import json

import numpy as np
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from gta_ref import tour
from gta_ref.commands import maps as command
from gta_ref.commands import tour as tour_command
from gta_ref.lm import small, train
from gta_ref.lm.text import Text
from gta_ref.maps import compare, passages
from gta_ref.weights import pretrained

WHY_NOT = pretrained.why_not("smollm2")
real = pytest.mark.skipif(WHY_NOT is not None, reason=f"the pretrained model: {WHY_NOT}")


# text


def test_passages_are_there_and_long_enough():
    windows = passages.standard(lambda text: list(text.encode()), 3000)
    assert len({window.name for window in windows}) == len(windows) == passages.N_PASSAGES
    assert all(window.ids.shape == (3000,) for window in windows)
    names = [window.name for window in passages.standard(lambda text: list(text.encode()), 10, 3)]
    assert [name.startswith("source") for name in names] == [False, False, True]
    with pytest.raises(ValueError, match="windows=9 must be at most 8 without a text of your own"):
        passages.standard(lambda text: [0] * 99, 10, 9)
    with pytest.raises(ValueError, match=r"help\('objects'\) has 5 tokens; expected at least length=10"):
        passages.standard(lambda text: [0] * 5, 10)


def test_windows_of_a_file_do_not_overlap(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(chr(ord("A") + i) for i in range(40)), encoding="utf-8")
    windows = passages.from_file(path, lambda text: [ord(c) for c in text], 10, 3)
    assert [window.name for window in windows] == [f"mine.txt, token {start}" for start in (0, 15, 30)]
    assert [window.ids.tolist() for window in windows] == [list(range(65 + s, 75 + s)) for s in (0, 15, 30)]
    assert len(passages.from_file(path, lambda text: [0] * 25, 10, 8)) == 2
    with pytest.raises(ValueError, match="has 19 tokens; expected at least 2 windows of length=10"):
        passages.from_file(path, lambda text: [0] * 19, 10, 8)


# the command


def run(function, *arguments):
    app = typer.Typer()
    app.command()(function)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file as gta-ref train writes it, of an untrained model."""
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    config, text = small.config("gta", hidden_size=64, n_layers=2), np.zeros(999, np.uint8)
    train.save(path, train.begin(config, train.Settings(), Text("none", text, text)))
    return path


def test_command(trained, tmp_path):
    out = tmp_path / "new" / "folder"
    result = run(command.maps, "--model", trained, "--length", 40, "--json", tmp_path / "m.json", "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "m.json").read_text())
    assert found == json.loads((out / "maps.json").read_text())
    assert (found["mechanism"], found["maps_a_layer"], found["key_heads"]) == ("gta", 2, 1)
    assert len(found["windows"]) == 8
    assert len(found["layers"]) == 2
    assert f"{found['summary']['without_first']['cosine_same']:.2f}" in result.output
    assert "They do not say" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert (out / "similarity.svg").read_text(encoding="utf-8").count("<path") > 20
    for name in ("heads.png", "needed.png", "maps.png"):
        image = imread(out / name)
        assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # a drawing, not a blank page


def test_command_is_the_same_each_time(trained, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Größe, naïveté, 数学. " * 20, encoding="utf-8")
    for name in ("1.json", "2.json"):
        options = "--model", trained, "--text", text, "--length", 32, "--windows", 3, "--json", tmp_path / name
        assert run(command.maps, *options).exit_code == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layer", "2"], "layer=2 must be from 0 to 1"),
        (["--windows", "9"], "windows=9 must be at most 8"),
        (["--text", "short.txt"], "short.txt has 5 tokens; expected at least 2 windows of length=256"),
        (["--text", "latin.txt"], "latin.txt: not UTF-8 text (invalid start byte at byte 2)"),
        (["--text", "none.txt"], "none.txt: No such file or directory"),
        (["--model", "none.safetensors"], "none.safetensors: no such file"),
        (["--model", "bert"], "model='bert' must be smollm2, or a file"),
    ],
)
def test_wrong_use_is_one_line(options, message, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_bytes(b"short")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1") * 200)
    result = run(command.maps, *(["--model", trained] if "--model" not in options else []), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def short_tour(monkeypatch):
    """Run only the steps that the figures need; test_cli.py runs the whole tour."""
    monkeypatch.setattr(tour, "STEPS", {name: tour.STEPS[name] for name in ("stages", "costs")})
    monkeypatch.setattr(tour, "CONTEXT", 256)


def test_tour_says_how_to_get_the_pretrained_model(tmp_path, monkeypatch, short_tour):
    monkeypatch.setattr(pretrained, "why_not", lambda name: "not installed: it; run: pip install it")
    result = run(tour_command.tour, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Real maps, of a pretrained model, are left out: not installed: it; run: pip install it\n" in result.output
    assert not (tmp_path / "real-maps.png").exists()
    assert json.loads((tmp_path / "tour.json").read_text())["pretrained_maps"].keys() == {"left_out"}


# the real model


@real
def test_tour_shows_real_maps(tmp_path, short_tour):
    result = run(tour_command.tour, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "6. Real maps: SmolLM2-135M" in result.output
    found = json.loads((tmp_path / "tour.json").read_text())["pretrained_maps"]
    assert found["tokens"] == 32
    assert 0 < found["cosine"]["without_first"] < found["cosine"]["all_keys"] < 1
    assert imread(tmp_path / "real-maps.png").shape[0] > 1000


@real
def test_real_model(tmp_path):
    """The statements of docs/maps.md hold on two short windows as well."""
    result = run(command.maps, "--length", 64, "--windows", 2, "--json", tmp_path / "m.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "m.json").read_text())
    assert (found["n_layers"], found["maps_a_layer"], found["key_heads"]) == (30, 9, 3)
    summary = found["summary"]
    for view in compare.VIEWS:
        assert summary[view]["cosine_same"] > summary[view]["cosine_other"] > summary[view]["cosine_shuffled"]
        assert summary[view]["divergence_same"] < summary[view]["divergence_other"]
        sharing = summary[view]["sharing_a_key"]
        assert sharing["within"] > sharing["across"]
    assert summary["all_keys"]["cosine_same"] > summary["without_first"]["cosine_same"] + 0.1
    assert summary["all_keys"]["maps_needed"]["0.8"] < summary["without_first"]["maps_needed"]["0.8"]
    # an untrained or wrongly read model has no sink in any layer
    assert found["layers"][0]["first_weight"] < 0.1
    assert found["layers"][24]["first_weight"] > 0.4
