"""A language model for its user, text in and text out: a pretrained one, or one that gta-ref train has written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gta_ref.lm import model, text
from gta_ref.ops import Array


class Tokenizer(Protocol):
    """Turns text into tokens and back."""

    @property
    def ends(self) -> Collection[int]:
        """Tokens that end a text."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield each token's text as soon as the token arrives; a character is yielded with the last of its tokens."""


class Bytes:
    """The tokenizer of models that gta-ref train has trained: a token is a byte of UTF-8, and none ends a text."""

    ends: Collection[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        """Return the text's bytes."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of bytes; those that are not UTF-8 become U+FFFD."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield each byte's text as soon as it arrives; a character is yielded with its last byte."""
        return text.utf8_pieces(bytes([i]) for i in ids)


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to run.

    Attributes
    ----------
    name : str
        The file's name without its ending.
    config : gta_ref.lm.model.Config
    params : dict of str to array
        All float32.
    tokenizer : Tokenizer
    context_length : int or None
        Largest number of tokens in a text; None if there is no limit.
    """

    name: str
    config: model.Config
    params: dict[str, Array] = field(repr=False)
    tokenizer: Tokenizer
    context_length: int | None

    def forward(self, ids: Array | list[int], *, engine: str = "auto") -> Array:
        """Logits of the next token at every position.

        Parameters
        ----------
        ids : (N,) or (B, N), integers
        engine : str
            Engine of the attention core. Default "auto".

        Returns
        -------
        logits : (N, vocabulary) or (B, N, vocabulary), float32
        """
        ids = np.asarray(ids)
        logits, _ = model.forward(self.params, np.atleast_2d(ids), self.config, engine=engine, need_saved=False)
        return logits.reshape(*ids.shape, -1)
