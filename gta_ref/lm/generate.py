"""Continue a text with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gta_ref.errors import as_int
from gta_ref.lm import model
from gta_ref.ops import Array
from gta_ref.ops.arrays import array_module


def greedy(
    params: Mapping[str, Array],
    ids: Array,
    config: model.Config,
    n_tokens: int,
    *,
    k_start: Any = None,
    engine: str = "auto",
) -> Array:
    """Append the most likely token, n_tokens times; the prompt is read once, then one token a step.

    Parameters
    ----------
    params : dict of str to array
    ids : (B, N), integers
        The prompts, left-padded to one length.
    config : Config
    n_tokens : int
    k_start : int or int array (B,), optional
        Number of padding tokens before each prompt.

    Returns
    -------
    ids : (B, N + n_tokens)
    """
    n_tokens = as_int("n_tokens", n_tokens, at_least=0)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"ids has shape {ids.shape}; expected (B, N) with at least one token")
    if n_tokens == 0:
        return ids
    xp = array_module(ids)
    # the last token is never fed back, so its keys need no room
    capacity = ids.shape[1] + n_tokens - 1
    embed = params["embed"]
    caches = model.new_caches(config, ids.shape[0], capacity, embed.dtype, k_start, like=embed)
    new = ids
    for _ in range(n_tokens):
        logits = model.decode(params, new, caches, config, engine=engine)
        new = logits[:, -1].argmax(axis=-1)[:, None].astype(ids.dtype)  # (B, 1)
        ids = xp.concatenate([ids, new], axis=1)
    return ids
