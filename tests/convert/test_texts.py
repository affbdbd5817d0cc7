"""Texts to convert and heal by and to judge by: no piece is in both; how windows are cut from them, or drawn."""

import re
import sys

import numpy as np
import pytest

from gta_ref.convert import texts


def encode(text):
    return list(text.encode())


@pytest.mark.parametrize("kind, repeated", [("prose", 0), ("code", 20)])
def test_what_is_held_out_is_not_learnt_from(kind, repeated):
    """Some files of the standard library repeat each other, such as those of the encodings."""
    learnt, held = (texts.pieces(kind, held_out=which) for which in (False, True))
    assert min(len(learnt), 5 * len(held)) > 50_000
    starts = range(0, len(held) - 400, len(held) // 200)
    assert sum(held[start : start + 400] in learnt for start in starts) <= repeated


def test_windows():
    found = texts.windows(encode, "prose", 3, 64, held_out=True)
    text = texts.pieces("prose", held_out=True)
    assert (found.shape, found.dtype) == ((3, 64), np.int64)
    assert bytes(found[0].tolist()) == text.encode()[:64]
    assert len({tuple(row) for row in found.tolist()}) == 3
    with pytest.raises(ValueError, match="prose has too few tokens for a window of length=10000000"):
        texts.windows(encode, "prose", 1, 10_000_000, held_out=True)
    with pytest.raises(ValueError, match="kind='verse' must be one of"):
        texts.pieces("verse", held_out=False)


SENTENCE = (
    "{} of this package explains in whole sentences what it does and why, so that a reader of nothing else can "
    "understand it, and it is long enough to be of use without the paragraphs before it and after it, which are missing"
)
PARAMETERS = "x : array of numbers that " + SENTENCE.format("A list of parameters")
EXAMPLE = ">>> print(something) # " + SENTENCE.format("An example")
NUMBERS = " ".join(f"{n}: {n * n};" for n in range(60))
PACKAGE = {
    "__init__.py": f'"""{SENTENCE.format("The module")}.\n\n{SENTENCE.format("Its second paragraph")}.\n\nShort.\n"""\n',
    "code.py": f'''
class Thing:
    """A short line.

    {SENTENCE.format("A class").replace(" and why, ", chr(10) + "    and why, ")}.
    """

    def method(self):
        """{SENTENCE.format("A method")}.

        {PARAMETERS}.

        {EXAMPLE}.

        {NUMBERS}
        """
        return """{SENTENCE.format("A text that is no docstring")}."""

    async def later(self):
        """{SENTENCE.format("The module")}.

        {SENTENCE.format("A coroutine")}.
        """
''',
    "inner/deep.py": f'def f():\n    """{SENTENCE.format("A function")}."""\n',
    "tests/test_code.py": f'"""{SENTENCE.format("A test")}."""\n',
    "inner/tests/helper.py": f'"""{SENTENCE.format("Another test")}."""\n',
    "notes.txt": SENTENCE.format("A file without code"),
}


@pytest.mark.parametrize("folder", ["site", "tests"], ids=["as usual", "in a folder called tests"])
def test_docstrings(folder, tmp_path, monkeypatch):
    for name, content in PACKAGE.items():
        path = tmp_path / folder / "explained" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / folder)
    found = texts.docstrings(["explained"]).split("\n\n")
    wanted = ["The module", "Its second paragraph", "A class", "A method", "A coroutine", "A function"]
    assert sorted(found) == sorted(f"{SENTENCE.format(name)}." for name in wanted)
    assert found[0] == f"{SENTENCE.format('The module')}."
    assert texts.docstrings(["explained", "explained"]).split("\n\n") == found
    assert "explained" not in sys.modules  # it is read, not imported


@pytest.mark.parametrize("name", ["no_such_package", "sys", "alone"])
def test_what_is_no_package_of_python_source(name, tmp_path, monkeypatch):
    """A folder that a module lies in may hold anything."""
    for file in ("alone.py", "beside.py"):
        (tmp_path / file).write_text(f'"""{SENTENCE.format(file)}."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} is not installed as a package of Python source$"):
        texts.docstrings([name])


def test_the_corpus_has_nothing_that_is_held_out():
    corpus = texts.corpus(encode, written="x" * 1000)
    assert list(corpus.texts) == ["prose", "code", "written"]
    assert corpus.texts["prose"].startswith(texts.pieces("prose", held_out=False))
    assert corpus.texts["code"] == texts.pieces("code", held_out=False)
    assert len(corpus.texts["prose"]) > 2 * len(texts.pieces("prose", held_out=False))
    held = texts.pieces("prose", held_out=True)
    assert not any(held[start : start + 200] in corpus.texts["prose"] for start in range(0, len(held) - 200, 50))


def letters(**lengths):
    """Texts of one letter each, so that a window shows from which it is."""
    return texts.Corpus({name: name * length for name, length in lengths.items()}, encode)


def test_as_many_windows_from_each_text():
    corpus, first = letters(a=500, b=5000, c=300), set()
    for seed in range(30):
        found = corpus.batch(np.random.default_rng(seed), 8, 20)
        assert (found.shape, found.dtype) == ((8, 20), np.int64)
        assert (found == found[:, :1]).all()
        counts = np.bincount(found[:, 0] - ord("a"), minlength=3)
        assert sorted(counts) == [2, 3, 3]
        first.add(int(corpus.batch(np.random.default_rng(seed), 1, 20)[0, 0]))
    assert first == set(b"abc")  # none is left out if there are more texts than windows


def test_windows_that_are_drawn():
    text = "".join(chr(32 + n % 90) for n in np.random.default_rng(0).integers(0, 90, 3000))
    corpus = texts.Corpus({"text": text}, encode)
    found = corpus.batch(np.random.default_rng(3), 40, 25)
    starts = [text.index(bytes(row.tolist()).decode()) for row in found]
    assert max(starts) <= 3000 - 8 * 25
    assert np.histogram(starts, 4, (0, 2800))[0].min() >= 3
    np.testing.assert_array_equal(corpus.batch(np.random.default_rng(3), 40, 25), found)
    assert not np.array_equal(corpus.batch(np.random.default_rng(4), 40, 25), found)


def test_a_window_of_blanks_is_drawn_again():
    corpus = texts.Corpus({"words": " " * 3000 + "word " * 600}, lambda text: [len(word) for word in text.split()])
    found = corpus.batch(np.random.default_rng(0), 50, 30)
    assert (found[:, 1:-1] == 4).all()


def test_a_text_that_is_too_short():
    with pytest.raises(ValueError, match="the text 'b' has too few tokens for a window of length=21"):
        letters(a=500, b=20).batch(np.random.default_rng(0), 2, 21)
    assert letters(a=500, b=21).batch(np.random.default_rng(0), 2, 21).shape == (2, 21)


def test_the_name_of_a_corpus():
    name = letters(a=1500, b=7).name
    assert re.fullmatch(r"a 1,500, b 7 characters, sha256 [0-9a-f]{12}", name)
    assert letters(a=1500, b=7).name == name
    changed = texts.Corpus({"a": "a" * 1499 + "b", "b": "b" * 7}, encode)
    renamed = texts.Corpus({"a": "a" * 1500, "c": "b" * 7}, encode)
    moved = texts.Corpus({"a": "b" * 1500, "b": "a" * 7}, encode)
    assert len({name, changed.name, renamed.name, moved.name, letters(a=1500, b=8).name}) == 5
