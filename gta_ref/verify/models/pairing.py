"""The order of features inside a query or key: scores do not depend on it, and programs differ in it.

RoPE that pairs neighbours ("interleaved") on features in one order computes the same scores as RoPE that pairs halves
on the features in another order. Files of llama.cpp have the first, those of Hugging Face's library the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.ops import Array

_STAGES = ("q_proj", "k_proj", "q_normed", "k_normed", "q", "k", "q_rope_proj", "k_rope_proj", "q_rope", "k_rope")


def in_our_order(stage: str, x: Array, attention: Any) -> Array | None:
    """Read x as queries or keys in the order of the other pairing.

    Parameters
    ----------
    stage : str
        Its name in the block.
    x : (B, n, N, d)
    attention : a mechanism's Config

    Returns
    -------
    y : (B, n, N, d), or None if the stage has no such order
    """
    pairing = getattr(attention, "rope_pairing", "none")
    name = stage.removeprefix("attention.")
    if pairing == "none" or name not in _STAGES:
        return None
    d = x.shape[-1]
    width = min(d, getattr(attention, "rope_dim", d))  # in MLA, the last features of a query
    frequencies = getattr(attention, "rope_frequencies", None)
    turned = width if frequencies is None else 2 * len(frequencies)
    first = d - width
    order = np.arange(d)
    pairs = np.arange(turned).reshape(-1, 2).T  # neighbours, (2, turned/2)
    # ours at feature f is theirs at order[f]
    inside = pairs.ravel() if pairing == "half" else pairs.ravel().argsort()
    order[first : first + turned] = first + inside
    return x[..., order]
