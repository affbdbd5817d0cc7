"""Continue a text by the most likely token or by one drawn at random, with a cache or without."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core.engines import ENGINES
from gta_ref.errors import LARGEST, as_float, as_int, check_choice, check_shape, refuse
from gta_ref.lm import model
from gta_ref.ops import Array
from gta_ref.ops.arrays import array_module, check_float, check_rng


def greedy(
    params: Mapping[str, Array],
    ids: Array,
    config: model.Config,
    n_tokens: int,
    *,
    k_start: Any = None,
    engine: str = "auto",
) -> Array:
    """Append the most likely token, n_tokens times; the prompt is read once, then one token per step.

    Parameters
    ----------
    params : dict of str to array
    ids : (B, N), integers
        The prompts, left-padded to one length.
    config : Config
    n_tokens : int
        Number of tokens to append, at least 0.
    k_start : int or int array (B,), optional
        Number of padding tokens before each prompt. Default 0.
    engine : str
        Engine of the attention core. Default "auto".

    Returns
    -------
    ids : (B, N + n_tokens)
        The prompts with the new tokens.

    Raises
    ------
    ValueError
        If there is no token to start from, an id is outside the vocabulary, or an argument has another type or shape.
    """
    n_tokens = as_int("n_tokens", n_tokens, at_least=0, at_most=LARGEST)
    model.check_inputs(params, ids, config)
    check_choice("engine", engine, ENGINES)
    if ids.shape[1] == 0:
        raise ValueError(f"ids has shape {ids.shape}; expected (B, N) with at least one token")
    if n_tokens == 0:
        return ids
    xp = array_module(ids)
    # the last token is never fed back, so the caches need no room for it
    capacity = ids.shape[1] + n_tokens - 1
    embed = params["embed"]
    caches = model.new_caches(config, ids.shape[0], capacity, embed.dtype, k_start, like=embed)
    new = ids
    for _ in range(n_tokens):
        logits = model.decode(params, new, caches, config, engine=engine, last=True)
        new = logits[:, -1].argmax(axis=-1)[:, None].astype(ids.dtype)  # (B, 1)
        ids = xp.concatenate([ids, new], axis=1)
    return ids


def stream(
    params: Mapping[str, Array],
    ids: Sequence[int],
    config: model.Config,
    n_tokens: int,
    *,
    caches: Sequence[KVCache] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    ends: Collection[int] = (),
    engine: str = "auto",
) -> Iterator[int]:
    """Yield the tokens that follow one text, each as soon as it is chosen.

    Parameters
    ----------
    params : dict of str to array
    ids : sequence of int
        The prompt, at least one token.
    config : Config
    n_tokens : int
        Largest number of tokens to yield, at least 1.
    caches : list of KVCache, optional
        Empty caches, from :func:`gta_ref.lm.model.new_caches` for a batch of 1, with room for the prompt and
        n_tokens − 1 more tokens. Without caches the whole text is computed again for every token.
    temperature, top_p : float
        As in :func:`draw`. Defaults: 0, the most likely token, and 1, all tokens.
    seed : int
        Seed of the random numbers, at least 0. Default 0. It has no effect at temperature 0.
    ends : collection of int
        Tokens that end the text; they are not yielded. Default: none.
    engine : str
        Engine of the attention core. Default "auto".

    Raises
    ------
    ValueError
        If an argument is outside its range. The call itself raises, not the first step of the iterator.
    """
    n_tokens = as_int("n_tokens", n_tokens, at_least=1, at_most=LARGEST)
    prompt = as_ids("ids", ids)
    if not prompt:
        raise ValueError("the prompt is empty; expected at least one token")
    model.check_inputs(params, np.array([prompt]), config)
    if caches is not None:
        model.check_caches(caches, config.n_layers)
    check_choice("engine", engine, ENGINES)
    ends = as_ids("ends", ends)
    check_sampling(temperature, top_p)
    rng = np.random.default_rng(as_int("seed", seed, at_least=0))

    def tokens() -> Iterator[int]:
        text = list(prompt)
        new = text
        for _ in range(n_tokens):
            if caches is None:
                logits, _ = model.forward(params, np.array([text]), config, engine=engine, need_saved=False, last=True)
            else:
                logits = model.decode(params, np.array([new]), caches, config, engine=engine, last=True)
            token = draw(logits[0, -1], temperature, top_p, rng)
            if token in ends:
                return
            yield token
            new = [token]
            text += new

    return tokens()


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise ValueError unless temperature is a finite number of at least 0 and top_p is in (0, 1]."""
    if not 0 <= as_float("temperature", temperature, "a number of at least 0") < math.inf:
        raise ValueError(f"temperature={temperature} must be a finite number of at least 0")
    if not 0 < as_float("top_p", top_p, "a number above 0") <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")


def as_ids(name: str, ids: Any) -> list[int]:
    """Return tokens as a list; raise ValueError unless they are whole numbers in a collection, or in an array (N,)."""
    if isinstance(ids, np.ndarray) and ids.ndim == 1:
        ids = ids.tolist()
    if isinstance(ids, str) or not isinstance(ids, (Sequence, Set)):  # bytes are whole numbers
        refuse(name, ids, "a collection of whole numbers")
    return [as_int(f"{name}[{i}]", one, at_least=0, at_most=LARGEST) for i, one in enumerate(ids)]


def draw(logits: Array, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Draw a token from softmax(logits / temperature), restricted to the nucleus (Holtzman et al., arXiv 1904.09751).

    The nucleus is the smallest set of the most likely tokens whose probabilities sum to at least top_p.
    At temperature 0 the most likely token is returned. Otherwise one random number is used, whatever the token.

    Parameters
    ----------
    logits : (vocabulary,)
    temperature : float
        At least 0.
    top_p : float
        In (0, 1].
    rng : numpy.random.Generator

    Returns
    -------
    token : int

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    check_sampling(temperature, top_p)
    check_float("logits", logits)
    check_shape("logits", logits, ("vocabulary",))
    if logits.shape[0] == 0:
        raise ValueError("logits has shape (0,); expected at least one number")
    check_rng(rng)
    if temperature == 0:
        return int(logits.argmax())
    x = np.asarray(logits, np.float64)
    with np.errstate(over="ignore"):  # an overflow to −inf is right: the probability is 0
        x = (x - x.max()) / temperature
    likely = np.argsort(-x, kind="stable")
    total = np.cumsum(np.exp(x[likely]))
    size = int(np.searchsorted(total, top_p * total[-1])) + 1
    chosen = np.searchsorted(total[:size], rng.random() * total[size - 1], side="right")
    return int(likely[chosen])
