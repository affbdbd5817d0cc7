"""Files of training runs that are damaged or absurd: one line with the name, and no other exception or endless work."""

import json
import time
from typing import Any

import numpy as np
import pytest

from gta_ref.files import read_tensors, write_tensors
from gta_ref.lm import optimizer, small, text, train

CONFIG = small.config("gta", vocab_size=64, hidden_size=32, n_layers=1)
SETTINGS = train.Settings(steps=12, batch=2, length=20, warmup=3, validate_every=2, validation_sequences=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run after two steps, without the time to compute them."""
    content = np.arange(4000) % 64
    source = text.Text("letters", content[:3000].astype(np.uint8), content[3000:].astype(np.uint8), 64)
    run = train.begin(CONFIG, SETTINGS, source)
    run.state = train.State(2, run.state.params, optimizer.zeros(run.state.params))
    run.losses, run.validation, run.seconds = [4.0, 3.5], {2: 3.25}, 1.5
    path = tmp_path_factory.mktemp("runs") / "run.safetensors"
    train.save(path, run)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    (tmp_path / "run.safetensors").write_bytes(whole)
    return tmp_path / "run.safetensors"


def refused(path):
    """Load a run that may be damaged; return the line of the error, or None if it could be loaded."""
    began = time.perf_counter()
    try:
        train.load(path)
    except ValueError as error:
        line = str(error)
        assert path.name in line, line
        assert line.isprintable(), line
        assert len(line) < 1000, line
        assert time.perf_counter() - began < 5
        return line
    return None


def n_header(whole):
    return 8 + int.from_bytes(whole[:8], "little")


def test_a_whole_run_is_loaded(path):
    run = train.load(path)
    assert (run.state.step, run.losses, run.validation, run.seconds) == (2, [4.0, 3.5], {2: 3.25}, 1.5)


def test_truncated(path, whole):
    for n in [*range(0, n_header(whole), 29), *range(n_header(whole), len(whole), len(whole) // 50), len(whole) - 1]:
        path.write_bytes(whole[:n])
        assert refused(path), n


def test_flipped_bits_of_the_header(path, whole):
    rng = np.random.default_rng(5)
    lines = []
    for at in rng.integers(0, n_header(whole), 800):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        lines.append(refused(path))
    assert sum(line is not None for line in lines) > len(lines) * 0.8


def rewrite(path, change):
    tensors, metadata = read_tensors(path)
    about = json.loads(metadata["run"])
    change(about)
    write_tensors(path, tensors, metadata | {"run": json.dumps(about)})


def put(*keys):
    """Return a change that puts the last of `keys` where the others lead."""
    *way, last, value = keys

    def change(about):
        for key in way:
            about = about[key]
        about[last] = value

    return change


@pytest.mark.parametrize(
    "change, reason",
    [
        (put("step", -1), "step=-1 must be a whole number of at least 0"),
        (put("step", None), "step=None must be a whole number"),
        (put("step", "x"), "step='x' must be a whole number"),
        (put("step", 2.0), r"step=2\.0 must be a whole number"),
        (put("step", True), "step=True must be a whole number"),
        (put("step", 1), "2 losses of dtype float64; expected 1"),
        (put("step", 13), "step=13 must be at most 12"),
        (put("step", 10**400), "step=1000+"),
        (put("settings", {}), "settings: missing batch, clip"),
        (put("settings", None), "settings is a NoneType; expected a dict"),
        (put("settings", []), "settings is a list; expected a dict"),
        (put("settings", "other", 1), "settings: unknown other"),
        (put("settings", "steps", "x"), "steps='x' must be a whole number"),
        (put("settings", "steps", None), "steps=None must be a whole number"),
        (put("settings", "clip", 10**400), "clip|too large"),
        (put("settings", "clip", [1]), r"clip=\[1\] must be a number above 0"),
        (put("settings", "weight_decay", "x"), "weight_decay|not supported"),
        (put("settings", "weight_decay", None), "weight_decay|not supported"),
        (put("config", "n_layers", 10**9), "n_layers=1000000000 does not fit"),
        (put("config", "n_layers", 10**400), "n_layers=1000+"),
        (put("config", "n_layers", "x"), "n_layers='x' must be a whole number"),
        (put("config", "vocab_size", 10**12), "embed has another shape"),
        (put("config", {}), "config: missing attention, intermediate_size"),
        (put("config", None), "config is a NoneType; expected a dict"),
        (put("config", "attention", None), "attention is a NoneType; expected a dict"),
        (put("config", "attention", {}), "missing .*head_dim"),
        (put("config", "attention", "other", 1), "unknown other"),
        (put("config", "attention", "n_heads", 0), "n_heads=0"),
        (put("config", "mechanism", ["gta"]), r"mechanism=\['gta'\] must be one of"),
        (put("config", "mechanism", "os"), "mechanism='os' must be one of"),
        (put("config", "mechanism", "mla"), "missing|unknown"),
        (put("validation", None), "validation is a NoneType; expected a dict"),
        (put("validation", {"x": 1.0}), "validation"),
        (put("validation", {"2": "x"}), "validation"),
        (put("validation", {"3": 1.0}), "validation"),
        (put("validation", {"-2": 1.0}), "validation"),
        (put("validation", {"2": None}), "validation"),
        (put("seconds", "x"), "seconds='x' must be a finite number of at least 0"),
        (put("seconds", -1), "seconds=-1 must be a finite number of at least 0"),
        (put("seconds", float("nan")), "seconds=nan must be a finite number of at least 0"),
        (put("seconds", 10**400), "seconds=1000+"),
        (put("source", None), "source is a NoneType; expected a str"),
        (put("source", "\n\x1b[2J"), r"source='\\n\\x1b\[2J' has characters that cannot be printed"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_written_about_the_run(path, change, reason):
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"run\.safetensors: .*{reason}"):
        train.load(path)
    assert refused(path)


STRANGE: list[Any] = [None, True, -1, 0, 1e400, float("nan"), 10**400, "x", "\n\x1b", [], [[]], {}, {"x": None}]


def test_strange_values_everywhere(path):
    """Every value of the run, of its settings and of its sizes, replaced by something strange or left out."""
    tensors, metadata = read_tensors(path)
    kept = metadata["run"]
    places = [[key] for key in json.loads(kept)]
    places += [[key, name] for key in ("settings", "config") for name in json.loads(kept)[key]]
    places += [["config", "attention", name] for name in json.loads(kept)["config"]["attention"]]
    loaded = 0
    for *way, last in places:
        for value in [*STRANGE, put]:
            about = inner = json.loads(kept)
            for key in way:
                inner = inner[key]
            if value is put:
                del inner[last]
            else:
                inner[last] = value
            write_tensors(path, tensors, metadata | {"run": json.dumps(about)})
            loaded += refused(path) is None
    assert loaded < 0.1 * len(places) * len(STRANGE)


@pytest.mark.parametrize(
    "about",
    ["", "null", "[]", "1", "{}", "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, '{"a":1,"a":1}'],
    ids=lambda about: about[:20],
)
def test_metadata_that_is_something_else(path, about):
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, metadata | {"run": about})
    assert refused(path)
    write_tensors(path, tensors, {"format": metadata["format"]})
    assert "an incomplete training run ('run')" in refused(path)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"losses": np.zeros(3)}, "3 losses of dtype float64; expected 2"),
        ({"losses": np.zeros((2, 1))}, r"losses has shape \(2, 1\)"),
        ({"losses": np.zeros(2, np.int64)}, "2 losses of dtype int64"),
        ({"params.embed": np.zeros((64, 32), np.int32)}, "have the dtypes float32, int32; expected one"),
        ({"m.embed": np.zeros((64, 32))}, "have the dtypes float32, float64; expected one"),
        ({"v.embed": np.zeros((64, 32), np.int32)}, "have the dtypes float32, int32; expected one"),
        (
            {f"{kind}.embed": np.zeros((64, 32)) for kind in ("params", "m", "v")},
            "have the dtypes float32, float64; expected one",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_tensors(path, change, reason):
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | change, metadata)
    with pytest.raises(ValueError, match=rf"run\.safetensors: .*{reason}"):
        train.load(path)
