"""Text to tokens and back, with the vocabulary and the merges from a GGUF file.

This is byte-level BPE as in GPT-2: the text is cut into digits and words, each is written as UTF-8 bytes, and pairs of
neighbours are merged in the order in which the merges were learnt. The vocabulary spells every byte as a visible
character. The package tokenizers does the merging; decoding needs only a table of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gta_ref.errors import check_choice
from gta_ref.files import one_line
from gta_ref.lm.text import utf8_pieces
from gta_ref.weights.gguf import GGUF

_CONTROL = 3  # the type of a token such as <|endoftext|>


class Tokenizer:
    """A file's tokenizer.

    Parameters
    ----------
    file : GGUF

    Attributes
    ----------
    vocab_size : int
    special : dict of str to int
        Tokens that control the model and do not represent text, such as ``<|endoftext|>``.
    ends : frozenset of int
        Tokens that end a text.

    Raises
    ------
    ValueError
        If the file's tokenizer is of another kind, or damaged.
    """

    def __init__(self, file: GGUF) -> None:
        check_choice("tokenizer.ggml.model", file.field("tokenizer.ggml.model", str), ("gpt2",))
        check_choice("tokenizer.ggml.pre", file.field("tokenizer.ggml.pre", str), ("smollm",))
        for name in ("add_bos_token", "add_eos_token", "add_sep_token"):
            if file.field(f"tokenizer.ggml.{name}", bool, False):
                raise ValueError(f"tokenizer.ggml.{name}=True must be False: no token is added to a text here")
        tokens = _list(file, "tokenizer.ggml.tokens", str)
        types = _list(file, "tokenizer.ggml.token_type", int)
        merges = _list(file, "tokenizer.ggml.merges", str)
        if len(types) != len(tokens):
            raise ValueError(
                f"tokenizer.ggml.token_type has {len(types)} entries; expected {len(tokens)}, one per token"
            )
        self.vocab_size = len(tokens)
        self.special = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _CONTROL}
        end = file.field("tokenizer.ggml.eos_token_id", int)
        # an instruct model ends its turn with a token of its own, and a document with <|endoftext|>
        self.ends = frozenset({end, self.special.get("<|endoftext|>", end)})
        try:
            self._bytes = [token.encode() if token in self.special else _spelled_out(token) for token in tokens]
            self._encoder = _encoder(tokens, merges, self.special)
        except Exception as error:  # nothing more specific: the package raises it for a merge of unknown tokens
            raise ValueError(
                f"the vocabulary does not fit GPT-2's spelling or its merges ({one_line(error)})"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; no token is added before or after it.

        A special token is recognised only if the text spells it out, as in ``<|im_start|>``. A byte for which the
        vocabulary has no token is left out; SmolLM2's vocabulary lacks six control characters.

        Raises
        ------
        ValueError
            If the text cannot be written in UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text has {text[error.start]!r} at {error.start}, which is not a character") from None
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield each token's text as soon as the token arrives.

        A character may be spread over several tokens; it is yielded with the last of them.
        """
        return utf8_pieces(map(self._spelling, ids))

    def _spelling(self, i: int) -> bytes:
        if not 0 <= i < self.vocab_size:
            raise ValueError(f"id {i} must be from 0 to {self.vocab_size - 1} (the vocabulary)")
        return self._bytes[i]


def _list(file: GGUF, name: str, expected: type) -> list[Any]:
    """Return a field that is a list; raise ValueError if one of its entries is not of type `expected`."""
    found: list[Any] = file.field(name, list)
    other = next((entry for entry in found if not isinstance(entry, expected)), None)
    if other is not None:
        raise ValueError(f"{name} contains a {type(other).__name__}; expected only {expected.__name__}")
    return found


def _spelling() -> dict[str, int]:
    """GPT-2's visible character for every byte: the one in Latin-1 if that is printable, else the next from U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE = _spelling()


def _spelled_out(token: str) -> bytes:
    return bytes(_BYTE[letter] for letter in token)


def _encoder(tokens: list[str], merges: list[str], special: Iterable[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    encoder = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    encoder.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return encoder
