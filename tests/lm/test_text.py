"""Texts: what is held out is never drawn, a target is the next byte, and a seed draws the same text again."""

import numpy as np
import pytest

from gta_ref.lm import small, text


def test_standard_library_holds_out_whole_files():
    found = text.standard_library()
    assert "standard library of Python 3." in found.name
    assert "sha256" in found.name
    share = len(found.validation) / (len(found.train) + len(found.validation))
    assert 0.05 < share < 0.2
    # no line that marks a file's beginning is in both
    heads = [bytes(part).count(b'"""Thread module emulating') for part in (found.train, found.validation)]
    assert max(heads) <= 1
    marks = [b"class JSONEncoder(object):", b"class ArgumentParser(", b"def dedent(text):", b"class OrderedDict(dict):"]
    for mark in marks:
        assert sum(mark in bytes(part) for part in (found.train, found.validation)) == 1, mark


def test_windows_and_targets(rng):
    content = rng.integers(0, 256, 1000).astype(np.uint8)
    source = text.Text("random", content, content[:300])
    ids, targets = source.batch(np.random.default_rng(1), 50, 20)
    assert ids.shape == targets.shape == (50, 20)
    assert ids.dtype == targets.dtype == np.int64
    np.testing.assert_array_equal(ids[:, 1:], targets[:, :-1])
    rows = {bytes(content[i : i + 21]) for i in range(980)}
    for row in np.concatenate([ids, targets[:, -1:]], axis=1).astype(np.uint8):
        assert bytes(row) in rows
    assert len({bytes(row.astype(np.uint8)) for row in ids}) > 40
    again, _ = source.batch(np.random.default_rng(1), 50, 20)
    np.testing.assert_array_equal(ids, again)


def test_held_out_windows_are_spread_and_complete(rng):
    content = rng.integers(0, 256, 300).astype(np.uint8)
    source = text.Text("random", content, content)
    batches = list(source.held_out(4, 20, 10))
    assert [len(ids) for ids, _ in batches] == [4, 4, 2]
    ids = np.concatenate([ids for ids, _ in batches])
    targets = np.concatenate([targets for _, targets in batches])
    np.testing.assert_array_equal(ids[0], content[:20])
    assert targets[-1, -1] == content[-1]
    one_by_one = np.concatenate([ids for ids, _ in source.held_out(1, 20, 10)])
    np.testing.assert_array_equal(ids, one_by_one)


def test_shortest_text(rng):
    content = rng.integers(0, 256, 21).astype(np.uint8)
    source = text.Text("random", content, content)
    ids, targets = source.batch(rng, 3, 20)
    np.testing.assert_array_equal(ids, np.broadcast_to(content[:20], (3, 20)))
    with pytest.raises(ValueError, match="has 21 bytes to draw from; expected more than length=21"):
        source.batch(rng, 3, 21)
    with pytest.raises(ValueError, match="expected more than length=21"):
        next(source.held_out(1, 21, 1))


def test_from_file(tmp_path, rng):
    content = rng.integers(0, 256, 1003).astype(np.uint8)
    path = tmp_path / "my.txt"
    path.write_bytes(content.tobytes())
    source = text.from_file(path)
    assert "my.txt (1,003 bytes" in source.name
    assert len(source.train) + len(source.validation) == 1003
    assert len(source.validation) == pytest.approx(100, abs=10)
    assert sorted([*source.train, *source.validation]) == sorted(content)
    np.testing.assert_array_equal(source.train[:90], content[:90])
    assert text.from_file(path).name == source.name
    path.write_bytes(content.tobytes()[::-1])
    assert text.from_file(path).name != source.name  # another version of the same file
    path.write_bytes(b"x" * 199)
    with pytest.raises(ValueError, match=r"my\.txt has 199 bytes; expected at least 200"):
        text.from_file(path)
    with pytest.raises(FileNotFoundError):
        text.from_file(tmp_path / "none.txt")


@pytest.mark.parametrize("name", small.NAMES)
def test_small_models_have_equal_parameters(name):
    sizes = {"hidden_size": 64, "n_heads": 8, "n_layers": 3}
    want, found = (small.n_parameters(small.config(n, **sizes)) for n in ("mha", name))
    assert abs(found - want) <= 3 * 64 * 3 / 2
    # and the gate's do not come on top
    gated = small.config(name, **sizes, gate="sigmoid")
    assert abs(small.n_parameters(gated) - want) <= 3 * 64 * 3 / 2


def test_small_models_cache():
    def cached(name):
        config = small.config(name)
        return config.module.structure(config.attention).cache_elements

    known = {"mha": 256, "mqa": 32, "gqa": 64, "mla": 48, "gva": 160, "gha": 80, "gta": 48}
    assert {name: cached(name) for name in known} == known


def test_small_models_refused():
    with pytest.raises(ValueError, match="mechanism='rnn' must be one of"):
        small.config("rnn")
    with pytest.raises(ValueError, match="n_heads=6 must divide hidden_size=128"):
        small.config("gta", n_heads=6)
    with pytest.raises(ValueError, match="n_heads=2 must be a multiple of 4"):
        small.config("gta", n_heads=2)
