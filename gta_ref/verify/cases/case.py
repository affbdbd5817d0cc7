"""What a case is, and the seed that follows from its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = ("attention", "layer", "lm")
DTYPES = ("float64", "float32", "bfloat16", "float16")
DTYPE = "float32"  # the default
NARROW = ("bfloat16", "float16")
# The dtypes of cases in which fewer bits could not tell a gradient from a senseless one (tolerance.check_sharp).
WIDE = ("float64", "float32")
NO_BFLOAT16 = ("float64", "float32", "float16")
LAYOUTS = ("contiguous", "token-major", "packed", "broadcast")


@dataclass(frozen=True)
class Case:
    """The description of one computation.

    Attributes
    ----------
    name : str
    level : {"attention", "layer", "lm"}
    tags : tuple of str
        Some of core, edge, decode, padding, tiles, layouts, gradient, large.
    seed : int
        Seed of the standard random inputs.
    settings : mapping
        Plain JSON. At the level "attention": sizes, mask, scale and dlse (whether lse has a cotangent); layout (one of
        LAYOUTS: how the arrays lie in memory); and what the inputs are like: logits (a factor on q), poison (NaN in
        unused slots), growth (the last key is this many times as long as the first), whole (the step of q, whose
        values and those of k are whole numbers), shift (fixed features: their number and their values in q and k), sink
        (the first feature of the first key) and equal_heads (all heads of k, and all of v, are the same). At the level "layer": mechanism, config, batch,
        length, mask; first_position (added to all positions), x_scale (a factor on x), absorb (which way MLA takes)
        and, for decoding, chunks (the number of tokens in each step). At the level "lm": mechanism, config, model,
        batch, length and, where there are such, mask, targets (whether targets are given, some of which do not count),
        x_scale (a factor on the embedding) and chunks.
    dtypes : tuple of str
        The dtypes that are precise enough for the case to detect a wrong result.
    """

    name: str
    level: str
    tags: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    dtypes: tuple[str, ...] = DTYPES


def seed_of(name: str) -> int:
    """A seed that depends on the name alone, so that a new case changes no other."""
    seed = 0
    for letter in name.encode():
        seed = (seed * 257 + letter) % 2**31
    return seed
