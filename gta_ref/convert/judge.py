"""How well a model continues held-out text."""

from __future__ import annotations

import numpy as np

from gta_ref.lm import model
from gta_ref.ops import Array, cross_entropy_forward
from gta_ref.ops.arrays import Params

AT_ONCE = 4  # sequences per forward, which bounds the memory of the logits


def loss(params: Params, config: model.Config, ids: Array) -> float:
    """Mean cross-entropy of the next token, in nats, over ids (B, N)."""
    total = 0.0
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        logits, _ = model.forward(params, some, config, need_saved=False)
        total += len(some) * float(cross_entropy_forward(np.ascontiguousarray(logits[:, :-1]), some[:, 1:])[0])
    return total / len(ids)
