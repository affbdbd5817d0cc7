"""Text to convert, heal and judge a model by, from what is installed anyway; whole pieces are held out.

The prose is the reference that ``help()`` shows, one piece per topic; the code is the standard library, one piece per
file. Both are under Python's licence and differ a little between its versions. A piece is either learnt from or held
out, never both. For healing there are the explanations in the docstrings of NumPy, SciPy (both under the BSD licence)
and Matplotlib (under a licence like Python's), and text that the original model has written itself
(:mod:`gta_ref.convert.written`); none of it is held out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gta_ref.errors import as_size, check_choice
from gta_ref.lm.text import HELD_OUT, Text, standard_library
from gta_ref.ops import Array

KINDS = ("prose", "code")
DOCUMENTED = ("numpy", "scipy", "matplotlib")

Encode = Callable[[str], Sequence[int]]
_PER_TOKEN = 8  # characters that are encoded per token that is wanted; a token of English or code has fewer on average
_SHORTEST = 200  # characters of a paragraph that is worth reading without its surroundings
_LETTERS = 0.9  # share of letters and spaces from which on a paragraph is prose, not code or a table


def pieces(kind: str, *, held_out: bool) -> str:
    """All pieces of one kind, one after the other: those to learn from, or those that are held out."""
    check_choice("kind", kind, KINDS)
    if kind == "code":
        library = _library()
        return bytes(library.validation if held_out else library.train).decode("utf-8", "replace")
    topics = importlib.import_module("pydoc_data.topics").topics
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        middle = len(topics[name]) // 2  # many topics are sections of another one
        if not any(topics[name][middle : middle + 200] in other for other in kept.values()):
            kept[name] = topics[name]
    return "\n\n".join(
        text for name, text in sorted(kept.items()) if (zlib.crc32(name.encode()) % HELD_OUT == 0) == held_out
    )


@cache
def _library() -> Text:
    """The standard library, read once: that takes seconds, and every kind of window is cut from it."""
    return standard_library()


def docstrings(packages: Sequence[str] = DOCUMENTED) -> str:
    """The paragraphs of whole sentences in the docstrings of installed packages, each paragraph once."""
    found = dict.fromkeys(paragraph for package in packages for paragraph in _paragraphs(package))
    return "\n\n".join(found)


def _paragraphs(package: str) -> Iterator[str]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed as a package of Python source")
    root = Path(spec.submodule_search_locations[0])
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.relative_to(root).parts:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            docstring = ast.get_docstring(node) if isinstance(node, documented) else None
            for paragraph in (docstring or "").split("\n\n"):
                text = " ".join(paragraph.split())
                letters = sum(character.isalpha() or character == " " for character in text)
                # neither a list of parameters nor an example
                prose = letters >= _LETTERS * len(text) and " : " not in text and ">>>" not in text
                if len(text) >= _SHORTEST and prose:
                    yield text


def windows(encode: Encode, kind: str, n: int, length: int, *, held_out: bool) -> Array:
    """Cut n windows of tokens, (n, length) int64, at equal distances from the text of one kind.

    Raises
    ------
    ValueError
        If the text has fewer tokens than one window.
    """
    n, length = as_size("n", n), as_size("length", length)
    text = pieces(kind, held_out=held_out)
    starts = np.linspace(0, max(0, len(text) - _PER_TOKEN * length), n).astype(int).tolist()
    found = [_window(encode, text, start, length) for start in starts]
    if any(len(ids) < length for ids in found):
        raise ValueError(f"{kind} has too few tokens for a window of length={length}")
    return np.array(found, np.int64)


class Corpus(NamedTuple):
    """Texts to learn from.

    Attributes
    ----------
    texts : dict of str to str
        By their names.
    encode : callable
        The tokenizer's.
    """

    texts: Mapping[str, str]
    encode: Encode

    @property
    def name(self) -> str:
        """Which texts they are and, by a digest, which versions of them."""
        digest = hashlib.sha256("\0".join(self.texts.values()).encode()).hexdigest()[:12]
        sizes = ", ".join(f"{name} {len(text):,}" for name, text in self.texts.items())
        return f"{sizes} characters, sha256 {digest}"

    def batch(self, rng: np.random.Generator, batch: int, length: int) -> Array:
        """Draw windows of tokens, (batch, length) int64, as many from each text as from the others.

        Raises
        ------
        ValueError
            If a text has too few tokens for one window.
        """
        names = list(self.texts)
        first = int(rng.integers(len(names)))  # so that no text is left out if there are more of them than windows
        found = []
        for i in range(batch):
            name = names[(first + i) % len(names)]
            text = self.texts[name]
            for _ in range(100):  # a window of blanks alone may have too few tokens
                start = int(rng.integers(max(1, len(text) - _PER_TOKEN * length)))
                ids = _window(self.encode, text, start, length)
                if len(ids) == length:
                    break
            else:
                raise ValueError(f"the text {name!r} has too few tokens for a window of length={length}")
            found.append(ids)
        return np.array(found, np.int64)


def corpus(encode: Encode, **more: str) -> Corpus:
    """The text that healing learns from: prose, code, and others by name."""
    texts = {kind: pieces(kind, held_out=False) for kind in KINDS}
    texts["prose"] += "\n\n" + docstrings()
    return Corpus({**texts, **more}, encode)


def _window(encode: Encode, text: str, start: int, length: int) -> Sequence[int]:
    return encode(text[start : start + _PER_TOKEN * length])[:length]
