"""Texts to convert by and to judge by: no piece is in both, and windows are cut evenly."""

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
