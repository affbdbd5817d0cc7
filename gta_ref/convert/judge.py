"""How well a model continues held-out text, and how near its predictions are to those of the original."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gta_ref.convert.original import Original
from gta_ref.lm import model
from gta_ref.ops import Array, cross_entropy_forward, kl_forward
from gta_ref.ops.arrays import Params

AT_ONCE = 4  # sequences per forward, which bounds the memory of the logits


class Judgement(NamedTuple):
    """A model beside the original, on one text.

    Attributes
    ----------
    loss : float
        Mean cross-entropy of the next token, in nats.
    divergence : float
        Mean of KL(original ‖ model) over all tokens, in nats.
    agreement : float
        Share of the tokens after which both hold the same next token to be the most likely.
    """

    loss: float
    divergence: float
    agreement: float


def loss(params: Params, config: model.Config, ids: Array) -> float:
    """Mean cross-entropy of the next token, in nats, over ids (B, N)."""
    total = 0.0
    for some in _parts(ids):
        total += len(some) * _loss(_logits(params, some, config), some)
    return total / len(ids)


def beside(params: Params, config: model.Config, original: Original, ids: Array) -> Judgement:
    """Judge a model by its predictions and by those of the original, on ids (B, N)."""
    total = np.zeros(3)
    for some in _parts(ids):
        wanted, logits = _logits(original.params, some, original.config), _logits(params, some, config)
        found = (
            _loss(logits, some),
            float(kl_forward(logits, wanted)[0]),
            float((logits.argmax(axis=-1) == wanted.argmax(axis=-1)).mean()),
        )
        total += len(some) * np.array(found)
    return Judgement(*(total / len(ids)).tolist())


def _parts(ids: Array) -> Iterator[Array]:
    for first in range(0, len(ids), AT_ONCE):
        yield ids[first : first + AT_ONCE]


def _logits(params: Params, ids: Array, config: model.Config) -> Any:
    return model.forward(params, ids, config, need_saved=False)[0]


def _loss(logits: Array, ids: Array) -> float:
    return float(cross_entropy_forward(np.ascontiguousarray(logits[:, :-1]), ids[:, 1:])[0])
