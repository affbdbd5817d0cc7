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
from gta_ref.lm import model, model_files, small, train
from gta_ref.lm.language_model import Bytes, LanguageModel
from gta_ref.lm.text import Text
from gta_ref.maps import compare, passages
from gta_ref.mechanisms import gta
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
    assert found["mechanism"] == "gta"
    assert [(layer["maps"], layer["key_heads"]) for layer in found["layers"]] == [(2, 1)] * 2
    assert "2 layers, each with 2 maps over 1 key head\n" in result.output
    assert "Only one map" not in result.output
    assert len(found["windows"]) == 8
    assert len(found["layers"]) == 2
    assert f"{found['summary']['without_first']['cosine_same']:.2f}" in result.output
    assert "They do not say" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert (out / "similarity.svg").read_text(encoding="utf-8").count("<path") > 20
    for name in ("heads.png", "needed.png", "maps.png"):
        image = imread(out / name)
        assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # a drawing, not a blank page


def converted(path, *sizes):
    """Write a file as gta-ref convert does, of a random model with n_q maps and n_k key heads in each layer."""
    layers = [gta.Config(24, 6, 4, n_q, n_k, 1, 8, bias=False) for n_q, n_k in sizes]
    config = model.Config(256, len(layers), 32, layers)
    model_files.save(path, model_files.Content(config, model.init(config, np.random.default_rng(0)), "smollm2", 512))
    return path


@pytest.fixture
def bytes_for_tokens(monkeypatch):
    """Let converted models read bytes, so that no test needs the pretrained model's tokenizer."""
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name: Bytes())


@pytest.mark.parametrize("drawn, titles", [(0, ["head 0"]), (1, ["map 0: output heads 0–5"])])
def test_layers_that_differ(drawn, titles, tmp_path, bytes_for_tokens, monkeypatch):
    figures = {}
    monkeypatch.setattr(command, "_write", lambda console, out, found, drawings: figures.update(drawings))
    path = converted(tmp_path / "mixed.safetensors", (6, 2), (1, 1), (2, 1))
    options = "--length", 40, "--layer", drawn, "--json", tmp_path / "m.json", "--out", tmp_path
    result = run(command.maps, "--model", path, *options)
    assert result.exit_code == 0, result.output
    assert "mixed: 3 layers, with 1 to 6 maps over 1 to 2 key heads\n" in result.output
    assert "Only one map in layer 1: left out of the means below\n" in result.output
    assert "maps needed of 8, cosine ≥ 0.8" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    layers = [line.split() for line in result.output.splitlines() if line.split()[:1] in (["0"], ["1"], ["2"])]
    assert [line[1] for line in layers] == ["6", "1", "2"]
    assert layers[1][4:] == ["–"] * 12
    found = json.loads((tmp_path / "m.json").read_text())
    assert [layer["maps"] for layer in found["layers"]] == [6, 1, 2]
    # the figures: two layers have pairs of heads; three have a column in the table, with their numbers of maps above
    panels = {name: [ax for ax in figure.axes if ax.get_title()] for name, figure in figures.items()}
    assert [ax.get_title() for ax in panels["heads.png"]] == ["layer 0", "layer 2"]
    assert [ax.images[0].get_array().shape for ax in panels["heads.png"]] == [(6, 6), (2, 2)]
    assert [ax.get_title() for ax in panels["maps.png"]][:1] == titles
    for ax, view in zip(panels["needed.png"], compare.VIEWS, strict=True):
        table = np.ma.filled(ax.images[0].get_array(), np.nan)
        assert table[0].tolist() == [6, 1, 2]
        needed = [found["layers"][i][view]["maps_needed"].values() for i in (0, 2)]
        np.testing.assert_array_equal(table[1:], np.transpose([[*needed[0]], [np.nan] * 5, [*needed[1]]]))
    curve = panels["similarity.svg"][0].lines[0].get_ydata()
    assert np.isnan(curve).tolist() == [False, True, False]


def test_one_map_in_every_layer_is_refused(tmp_path, bytes_for_tokens):
    result = run(command.maps, "--model", converted(tmp_path / "single.safetensors", (1, 1), (1, 1)))
    assert result.exit_code == 2
    assert "single has one map in every layer; expected a layer with two or more to compare\n" in result.stderr
    assert result.stderr.count("\n") == 1


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


@pytest.mark.parametrize(
    "sizes, said",
    [
        ((3, 1), "Its 3 maps, each for 2 of 6 output heads, give 0."),
        ((1, 1), "Its only map, for all 6 output heads, gives 0."),
        ((6, 2), "Its 6 maps give 0."),
    ],
)
def test_tour_of_a_converted_model(sizes, said, tmp_path, bytes_for_tokens, short_tour):
    """Its middle layer, which here has other sizes than the first, is shown with maps and latents."""
    path = converted(tmp_path / "mine.safetensors", (2, 1), sizes)
    result = run(tour_command.tour, "--model", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.output.split())
    assert "6. Real maps: mine, layer 1, reads the first 32 tokens" in printed
    assert said in printed
    assert "It caches 1 latent of width 8 for each token" in printed
    found = json.loads((tmp_path / "out" / "tour.json").read_text())["pretrained_maps"]
    assert (found["maps"], found["heads"], found["latents"]) == (sizes[0], 6, {"heads": 1, "width": 8})
    assert (found["cosine"]["all_keys"] is None) == (sizes[0] == 1)
    for name in ("real-maps.png", "real-latents.png"):
        image = imread(tmp_path / "out" / name)
        assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100


def test_latents_of_the_tour_are_those_that_the_first_maps_read(rng):
    """Of two latent heads, the first, and the values of the heads whose maps read it: rows of the definition."""
    config = gta.Config(24, 6, 4, 6, 2, 2, 8, bias=False)
    layers = model.Config(256, 1, 32, config)
    params = model.init(layers, rng, "float64")
    reader = LanguageModel("mine", layers, params, Bytes(), None)
    found, real = tour.pretrained_maps(tour.start("a text", b"some words " * 10, 0), reader)
    ids = np.frombuffer(b"some words " * 10, np.uint8)[None, :32].astype(int)
    (trace,) = model.layer_traces(params, ids, layers)
    assert found["latents"] == {"heads": 2, "width": 8}
    latents, values, head_dim, heads_per_map = real.latents
    np.testing.assert_array_equal(latents, trace["c"][0, 0])
    np.testing.assert_array_equal(real.maps, trace["map"][0])
    w_p = params["layers.0.attention.w_p"]
    want = np.concatenate([latents @ w_p[m] for m in range(3)], axis=1)
    np.testing.assert_allclose(values, want, rtol=0, atol=1e-13)
    assert (head_dim, heads_per_map) == (4, 1)


def test_tour_refuses_a_wrong_model_before_its_steps(tmp_path, short_tour):
    result = run(tour_command.tour, "--model", "none.safetensors", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == "gta-ref: none.safetensors: no such file\n"
    assert not result.stdout
    assert not (tmp_path / "out").exists()


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
    assert [(layer["maps"], layer["key_heads"]) for layer in found["layers"]] == [(9, 3)] * 30
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
