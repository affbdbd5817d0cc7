"""A language model as its user meets it: text in, text out; a pretrained one, or one that gta-ref train has written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gta_ref.lm import model, text
from gta_ref.ops import Array


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def ends(self) -> Collection[int]:
        """Tokens after which a text is over."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids."""

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Give each token's text as soon as the token comes; a character comes with the last of its tokens."""


class Bytes:
    """The tokenizer of what gta-ref train has trained: a token is a byte of UTF-8, and no text ends."""

    ends: Collection[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        """The text's bytes."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """Text of bytes; those that are no UTF-8 become U+FFFD."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Give each byte's text as soon as it comes: nothing before the last byte of a character."""
        return text.utf8_pieces(bytes([i]) for i in ids)


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to run.

    Attributes
    ----------
    name : str
        The file's name, which says which model it is.
    config : gta_ref.lm.model.Config
    params : dict of str to array
        float32.
    tokenizer : Tokenizer
    context_length : int or None
        Tokens that a text may have at most; None where nothing forbids more.
    """

    name: str
    config: model.Config
    params: dict[str, Array] = field(repr=False)
    tokenizer: Tokenizer
    context_length: int | None

    def forward(self, ids: Array | list[int], *, engine: str = "auto") -> Array:
        """Logits of the next token at every place.

        Parameters
        ----------
        ids : (N,) or (B, N), integers
        engine : str

        Returns
        -------
        logits : (N, vocabulary) or (B, N, vocabulary), float32
        """
        ids = np.asarray(ids)
        logits, _ = model.forward(self.params, np.atleast_2d(ids), self.config, engine=engine, need_saved=False)
        return logits.reshape(*ids.shape, -1)
