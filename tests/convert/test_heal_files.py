"""Files of healings that are damaged, foreign, or of another healing: one line with the name of the file."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from gta_ref.convert import heal, heal_files, texts
from gta_ref.convert.sizes import Sizes
from gta_ref.files import read_tensors, write_tensors
from tests.convert import tiny
from tests.convert.tiny import Stop, stop_at

SETTINGS = heal.Settings(layer_steps=2, steps=2, batch=2, length=16)


@pytest.fixture(scope="module")
def beginning():
    params, config, _ = tiny.converted(dtype="float32")
    return heal.begin(params, config, SETTINGS, tiny.corpus())


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["layer by layer", "between the stages", "end to end"])
def whole(request, beginning, tmp_path_factory):
    healing = dataclasses.replace(beginning, losses=[])
    with pytest.raises(Stop):
        heal.advance(healing, tiny.original("float32"), tiny.corpus(), on_step=stop_at(request.param))
    path = tmp_path_factory.mktemp("healings") / "healing.safetensors"
    heal_files.save(path, healing)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    (tmp_path / "healing.safetensors").write_bytes(whole)
    return tmp_path / "healing.safetensors"


def refused(path, beginning):
    """Load a healing that may be damaged; return the line of the error, or None if it could be loaded."""
    try:
        heal_files.load(path, beginning)
    except ValueError as error:
        line = str(error)
        assert line.startswith(f"{path}: "), line
        assert line.isprintable(), line
        assert len(line) < 1000, line
        return line
    return None


def rewrite(path, **changes):
    """Change tensors, and what is written about the healing; None leaves a tensor out."""
    tensors, metadata = read_tensors(path)
    about = json.loads(metadata["healing"])
    about |= changes.pop("about", {})
    tensors = {name: x for name, x in (tensors | changes).items() if x is not None}
    write_tensors(path, tensors, metadata | {"healing": json.dumps(about)})


def test_what_a_file_holds(path, beginning):
    """What is trained and its moments, and nothing of the embedding, the MLPs and the gains that are not moved."""
    assert refused(path, beginning) is None
    tensors, metadata = read_tensors(path)
    step = json.loads(metadata["healing"])["step"]
    of_stage = {name for name in beginning.state.trained if step >= 2 or ".attention." in name}
    expected = {f"trained.{name}" for name in beginning.state.trained}
    assert tensors.keys() == expected | {f"{kind}.{name}" for kind in "mv" for name in of_stage} | {"losses"}
    assert heal_files.load(path, beginning).frozen is beginning.frozen


def other_models():
    params, config, _ = tiny.converted(dtype="float32")
    moved = {**params, "layers.1.attention.w_o": params["layers.1.attention.w_o"] * np.float32(1.001)}
    wider, its_config, _ = tiny.converted((Sizes(n_q=2, n_k=1, latent_dim=7), tiny.CUT[1]), dtype="float32")
    doubles, _, _ = tiny.converted()
    more = texts.Corpus({**tiny.corpus().texts, "more": "x"}, tiny.ENCODE)
    settings = dataclasses.replace(SETTINGS, rate=1e-3)
    yield (moved, config, SETTINGS, tiny.corpus()), "it began with another model of the same sizes"
    yield (doubles, config, SETTINGS, tiny.corpus()), "it began with another model of the same sizes"
    yield (wider, its_config, SETTINGS, tiny.corpus()), "its config has attention=.*'latent_dim'"
    yield (params, config, settings, tiny.corpus()), r"its settings has rate=0\.0002; expected 0\.001"
    yield (params, config, SETTINGS, more), r"its text is 'first [\d,]+, .*'; expected 'first .*, more 1 characters"


def test_of_another_healing(path):
    for arguments, message in other_models():
        with pytest.raises(ValueError, match=rf"healing\.safetensors: {message}"):
            heal_files.load(path, heal.begin(*arguments))
        assert refused(path, heal.begin(*arguments))


def test_of_another_kind(path, beginning, tmp_path):
    with pytest.raises(FileNotFoundError):
        heal_files.load(tmp_path / "none.safetensors", beginning)
    tensors, metadata = read_tensors(path)
    for other in ({}, {"format": "gta_ref training run 1"}, {"healing": metadata["healing"]}):
        write_tensors(path, tensors, other)
        assert "not a healing; expected a file that gta-ref heal has written" in refused(path, beginning)
    write_tensors(path, tensors, {"format": metadata["format"]})
    assert "an incomplete healing ('healing')" in refused(path, beginning)
    for about in ("", "null", "[]", "1", "{}", "[" * 10_000 + "]" * 10_000, '{"step":1,"step":1}'):
        write_tensors(path, tensors, metadata | {"healing": about})
        assert refused(path, beginning), about[:20]


def test_truncated(path, whole, beginning):
    n_header = 8 + int.from_bytes(whole[:8], "little")
    for n in [*range(0, n_header, 97), *range(n_header, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:n])
        assert refused(path, beginning), n


def test_flipped_bits_of_the_header(path, whole, beginning):
    rng, n_header = np.random.default_rng(5), 8 + int.from_bytes(whole[:8], "little")
    lines = []
    for at in rng.integers(0, n_header, 300):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        lines.append(refused(path, beginning))
    assert sum(line is not None for line in lines) > 0.8 * len(lines)


@pytest.mark.parametrize(
    "about, message",
    [
        ({"step": -1}, "step=-1 must be a whole number of at least 0"),
        ({"step": 5}, "step=5 must be a whole number of at most 4"),
        ({"step": True}, "step=True must be a whole number"),
        ({"step": None}, "step=None must be a whole number"),
        ({"step": 0}, r"losses has shape \(\d,\); expected \(0,\)"),
        ({"seconds": -1}, "seconds=-1 must be a finite number of at least 0"),
        ({"seconds": "x"}, "seconds='x' must be a finite number"),
        ({"seconds": float("nan")}, "seconds=nan must be a finite number"),
        ({"seconds": 10**400}, "seconds=1000"),
        ({"settings": None}, "an incomplete healing"),
        ({"settings": []}, "an incomplete healing"),
        ({"settings": {}}, "its settings has batch=None; expected 2"),
        ({"config": "x"}, "an incomplete healing"),
        ({"config": {}}, "its config has attention=None"),
        ({"text": None}, "its text is None; expected 'first"),
        ({"text": "\n\x1b[2J"}, r"its text is '\\n\\x1b\[2J'"),
        ({"digest": 1}, "it began with another model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_written_about_the_healing(path, beginning, about, message):
    rewrite(path, about=about)
    with pytest.raises(ValueError, match=rf"healing\.safetensors: .*{message}"):
        heal_files.load(path, beginning)
    assert refused(path, beginning)


STRANGE: list[Any] = [None, True, -1, 1e400, float("nan"), 10**400, "x", "\n\x1b", [], [[]], {}, {"x": None}]


def test_strange_values_everywhere(path, beginning):
    tensors, metadata = read_tensors(path)
    kept = json.loads(metadata["healing"])
    for key in kept:
        for about in (*({**kept, key: value} for value in STRANGE), {k: v for k, v in kept.items() if k != key}):
            write_tensors(path, tensors, metadata | {"healing": json.dumps(about)})
            assert refused(path, beginning), about.get(key, "left out")


@pytest.mark.parametrize("kind", ["trained", "m", "v"])
def test_other_tensors(path, beginning, kind):
    name = f"{kind}.layers.0.attention.w_q"
    shape = beginning.state.trained["layers.0.attention.w_q"].shape
    for change, message in (
        (None, rf"an incomplete healing \('{name}'\)"),
        (np.zeros(shape), f"{name} has dtype float64; expected float32"),
        (np.zeros(shape[::-1], np.float32), rf"{name} has shape .*; expected \({shape[0]}, {shape[1]}\)"),
        (np.zeros(shape[0], np.float32), f"{name} has shape"),
    ):
        kept = path.read_bytes()
        rewrite(path, **{name: change})
        with pytest.raises(ValueError, match=rf"healing\.safetensors: {message}"):
            heal_files.load(path, beginning)
        path.write_bytes(kept)


def test_other_losses(path, beginning):
    losses = read_tensors(path)[0]["losses"]
    for change, message in (
        (losses.astype(np.int64), "losses has dtype int64; expected float64"),
        (losses[:, None], "losses has shape"),
        (losses[1:], "losses has shape"),
        (None, r"an incomplete healing \('losses'\)"),
    ):
        kept = path.read_bytes()
        rewrite(path, losses=change)
        with pytest.raises(ValueError, match=rf"healing\.safetensors: {message}"):
            heal_files.load(path, beginning)
        path.write_bytes(kept)


def test_nothing_is_written_half(path, beginning, monkeypatch):
    """A file that cannot be written leaves the one before."""
    kept = path.read_bytes()
    healing = heal_files.load(path, beginning)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left|healing\.safetensors"):
        heal_files.save(path, healing)
    assert path.read_bytes() == kept
    assert [one.name for one in path.parent.iterdir()] == [path.name]
