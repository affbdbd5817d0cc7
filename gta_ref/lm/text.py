"""Text to learn from, with one byte per token: Python's own standard library, or a file of your own.

A training run needs a :class:`Source` of data: batches to learn from, drawn by a random generator, and fixed batches
that are held out. :class:`Text` is one; the task in :mod:`gta_ref.lab.retrieval`, made of random numbers, is another.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import os
import platform
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gta_ref.files import one_line

VOCABULARY = 256  # one byte per token
HELD_OUT = 10  # one file in 10 is held out, or one stretch in 10 of a single file
_NOT_READ = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}

Batch = tuple[np.ndarray, np.ndarray]  # ids and targets, (B, N), int64


def utf8_pieces(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield each chunk's text at once, a character with its last byte, and U+FFFD for bytes that are not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


class Source(Protocol):
    """Where the batches of a training run come from."""

    @property
    def name(self) -> str:
        """A name that states everything the batches depend on."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token."""

    def batch(self, rng: np.random.Generator, batch: int, length: int) -> Batch:
        """Draw ids and the targets that follow them, each (batch, length)."""

    def held_out(self, batch: int, length: int, n_sequences: int) -> Iterator[Batch]:
        """Yield the same `n_sequences` sequences in every call; :meth:`batch` draws none of them."""


@dataclass(frozen=True)
class Text:
    """Bytes to learn from and bytes held out.

    Attributes
    ----------
    name : str
        States which text it is and, by a digest, which version of it.
    train, validation : (n,), uint8
    vocab_size : int
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    vocab_size: int = VOCABULARY

    def batch(self, rng: np.random.Generator, batch: int, length: int) -> Batch:
        """Draw windows that begin anywhere in the training text."""
        _check_length(self.train, length)
        return _windows(self.train, rng.integers(0, len(self.train) - length, batch), length)

    def held_out(self, batch: int, length: int, n_sequences: int) -> Iterator[Batch]:
        """Yield windows at equal distances in the validation text, in order."""
        _check_length(self.validation, length)
        starts = np.linspace(0, len(self.validation) - length - 1, n_sequences).astype(np.int64)
        for first in range(0, n_sequences, batch):
            yield _windows(self.validation, starts[first : first + batch], length)


def standard_library() -> Text:
    """Read the part of Python's standard library that is written in Python; whole files are held out.

    Tests and installed packages are left out. The text is that of the Python that runs, so it differs between
    versions; the name says which.

    Raises
    ------
    FileNotFoundError
        If this Python was installed without its source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _NOT_READ.intersection(relative.parts):
            is_held_out = zlib.crc32(relative.as_posix().encode()) % HELD_OUT == 0
            parts[is_held_out].append(path.read_bytes())
    if not parts[False] or not parts[True]:
        raise FileNotFoundError(f"{root}: no source of the standard library there; give a text of your own")
    return _text(f"standard library of Python {platform.python_version()}", *(b"\n".join(parts[k]) for k in parts))


def from_file(path: str | os.PathLike[str]) -> Text:
    """Read any file, cut into 100 equal stretches, of which every tenth is held out.

    Raises
    ------
    ValueError
        If the file is too short for its stretches to be of use.
    """
    path = Path(path)
    content = path.read_bytes()
    if len(content) < 2 * HELD_OUT**2:
        raise ValueError(f"{path} has {len(content)} bytes; expected at least {2 * HELD_OUT**2}")
    edges = np.linspace(0, len(content), HELD_OUT**2 + 1).astype(int)
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for i, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        parts[i % HELD_OUT == HELD_OUT - 1].append(content[start:stop])
    return _text(one_line(path.name), *(b"".join(parts[k]) for k in parts))


def _text(name: str, train: bytes, validation: bytes) -> Text:
    digest = hashlib.sha256(train + validation).hexdigest()[:12]
    name = f"{name} ({len(train) + len(validation):,} bytes, sha256 {digest})"
    return Text(name, np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8))


def _check_length(text: np.ndarray, length: int) -> None:
    if len(text) <= length:
        raise ValueError(f"the text has {len(text)} bytes to draw from; expected more than length={length}")


def _windows(text: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    window = text[starts[:, None] + np.arange(length + 1)].astype(np.int64)  # (B, length + 1)
    return window[:, :-1], window[:, 1:]
