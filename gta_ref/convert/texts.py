"""Text to convert, heal and judge a model by: prose and code that come with every Python, whole pieces held out.

The prose is the reference that ``help()`` shows, one piece per topic; the code is the standard library, one piece per
file. Both are under Python's licence and differ a little between its versions. A piece is either learnt from or held
out, never both.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from gta_ref.errors import as_size, check_choice
from gta_ref.lm.text import HELD_OUT, standard_library
from gta_ref.ops import Array

KINDS = ("prose", "code")


def pieces(kind: str, *, held_out: bool) -> str:
    """All pieces of one kind, one after the other: those to learn from, or those that are held out."""
    check_choice("kind", kind, KINDS)
    if kind == "code":
        library = standard_library()
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


def windows(encode: Callable[[str], Sequence[int]], kind: str, n: int, length: int, *, held_out: bool) -> Array:
    """Cut n windows of tokens, (n, length) int64, at equal distances from the text of one kind.

    Raises
    ------
    ValueError
        If the text has fewer tokens than one window.
    """
    n, length = as_size("n", n), as_size("length", length)
    text = pieces(kind, held_out=held_out)
    starts = np.linspace(0, max(0, len(text) - 8 * length), n).astype(int).tolist()  # a token has fewer characters
    found = [encode(text[start : start + 8 * length])[:length] for start in starts]
    if any(len(ids) < length for ids in found):
        raise ValueError(f"{kind} has too few tokens for a window of length={length}")
    return np.array(found, np.int64)
