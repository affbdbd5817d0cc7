"""Text that a model writes itself, many texts at a time: what it has learnt is in it, without its training data.

Distilling a model by such text needs no text from elsewhere (data-free distillation; Liu et al., arXiv 2305.17888, do
the same to train models with rounded weights).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gta_ref.errors import as_int, as_size
from gta_ref.lm import model
from gta_ref.lm.language_model import LanguageModel
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params, check_rng

LENGTH = 256  # tokens of a text
SEED = 0
SEPARATOR = "<|endoftext|>"  # what SmolLM2 has read between two documents


def texts(teacher: LanguageModel, n: int, *, on_token: Callable[[], object] | None = None) -> str:
    """n texts of a pretrained model, with a blank line between two of them; the same in every call."""
    start = teacher.tokenizer.encode(SEPARATOR)[0]
    ids = write(teacher.params, teacher.config, start, n, LENGTH, np.random.default_rng(SEED), on_token=on_token)
    return "\n\n".join(teacher.tokenizer.decode(one) for one in ids.tolist())


def write(
    params: Params,
    config: model.Config,
    start: int,
    n: int,
    length: int,
    rng: np.random.Generator,
    *,
    on_token: Callable[[], object] | None = None,
) -> Array:
    """Draw n texts, token by token, from what the model predicts (temperature 1).

    Parameters
    ----------
    params, config
        The model.
    start : int
        The token before each text, as a rule the one that separates documents.
    n, length : int
        Texts, and tokens per text.
    rng : numpy.random.Generator
    on_token : callable, optional
        Called after every token of all texts.

    Returns
    -------
    ids : (n, length), int64
        Without the first token.
    """
    n, length = as_size("n", n), as_size("length", length)
    start = as_int("start", start, at_least=0, at_most=config.vocab_size - 1)
    check_rng(rng)
    caches = model.new_caches(config, n, length, params["embed"].dtype)
    new = np.full((n, 1), start, np.int64)
    ids = np.empty((n, length), np.int64)
    for t in range(length):
        logits = model.decode(params, new, caches, config, last=True)[:, 0]  # (n, vocabulary)
        new = draw(logits, rng)[:, None]
        ids[:, t] = new[:, 0]
        if on_token is not None:
            on_token()
    return ids


def draw(logits: Array, rng: np.random.Generator) -> Array:
    """One token per row from softmax(logits), (n, vocabulary) → (n,) int64: where the distribution passes a number."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    passed = np.cumsum(weights, axis=-1, out=weights)
    wanted = rng.random((len(logits), 1)) * passed[:, -1:]  # below the last one, even if the number is 1 - 2⁻⁵³
    found: Array = (passed <= wanted).sum(axis=-1)
    return found
