"""Passages of text for a model to read: English prose and code that every Python includes, or a file.

The prose is the language reference that ``help()`` shows and the essay on heaps in heapq; the code is from the middle
of modules of the standard library. Both differ a little between versions of Python.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gta_ref.errors import as_int

_TOPICS = ("objects", "execmodel", "debugger")  # topics of help()
_MODULES = ("argparse", "configparser", "fractions", "tarfile")
N_PASSAGES = len(_TOPICS) + 1 + len(_MODULES)

_HEADING = re.compile(r"^.+\n[*=-]{3,}\n", re.MULTILINE)

Encode = Callable[[str], Sequence[int]]


class Window(NamedTuple):
    """A piece of text that the model reads at once, as tokens."""

    name: str
    ids: np.ndarray  # (N,), int64


def standard(encode: Encode, length: int, n_windows: int = N_PASSAGES) -> list[Window]:
    """Take the first `length` tokens of each of `n_windows` passages: half of them prose, which comes first, half code.

    Raises
    ------
    ValueError
        If a passage is shorter than `length`, or more passages are requested than there are.
    """
    length, n_windows = as_int("length", length, at_least=1), as_int("windows", n_windows, at_least=1)
    if n_windows > N_PASSAGES:
        raise ValueError(f"windows={n_windows} must be at most {N_PASSAGES} without a text of your own")
    passages = _prose()[: -(-n_windows // 2)] + _code()[: n_windows // 2]
    return [_first(name, encode(text), length) for name, text in passages]


def from_file(path: str | os.PathLike[str], encode: Encode, length: int, n_windows: int) -> list[Window]:
    """Take windows of `length` tokens that do not overlap, at equal distances in a file of UTF-8 text.

    Returns
    -------
    list of Window
        Fewer than `n_windows` if the text is short.

    Raises
    ------
    ValueError
        If the text is too short for two windows, or is not UTF-8.
    """
    length, n_windows = as_int("length", length, at_least=1), as_int("windows", n_windows, at_least=1)
    path = Path(path)
    try:
        ids = encode(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if len(ids) < 2 * length:
        raise ValueError(f"{path} has {len(ids)} tokens; expected at least 2 windows of length={length}")
    starts = np.linspace(0, len(ids) - length, min(n_windows, len(ids) // length)).astype(int)
    tokens = np.asarray(ids, np.int64)
    return [Window(f"{path.name}, token {start}", tokens[start : start + length]) for start in starts.tolist()]


def _prose() -> list[tuple[str, str]]:
    topics = importlib.import_module("pydoc_data.topics").topics
    found = [(f"help({topic!r})", _HEADING.sub("", topics[topic]).lstrip()) for topic in _TOPICS]
    _, _, essay = importlib.import_module("heapq").__about__.partition("]\n\n")
    return [*found, ("heapq.__about__", essay)]


def _code() -> list[tuple[str, str]]:
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in _MODULES}
    # each passage starts after an empty line, so that it does not begin within a statement
    return [
        (f"source of {name}", text[text.index("\n\n", len(text) // 2) :].lstrip("\n")) for name, text in sources.items()
    ]


def _first(name: str, ids: Sequence[int], length: int) -> Window:
    if len(ids) < length:
        raise ValueError(f"{name} has {len(ids)} tokens; expected at least length={length}")
    return Window(name, np.asarray(ids[:length], np.int64))
