"""What a case is, and the seed that follows from its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = ("attention", "layer", "lm")
DTYPES = ("float64", "float32", "bfloat16", "float16")
DTYPE = "float32"  # the default
# The dtypes of cases in which fewer bits could not tell a gradient from a senseless one (tolerance.check_sharp).
WIDE = ("float64", "float32")
NO_BFLOAT16 = ("float64", "float32", "float16")


@dataclass(frozen=True)
class Case:
    """The description of one computation.

    Attributes
    ----------
    name : str
    level : {"attention", "layer", "lm"}
    tags : tuple of str
        Some of core, edge, decode, padding, gradient, low-precision, large.
    seed : int
        Seed of the random inputs.
    settings : mapping
        Plain JSON. At the level "attention": sizes, mask, scale, logits (a factor on q), poison (NaN in unused slots)
        and dlse (whether lse has a cotangent). At the level "layer": mechanism, config, batch, length, mask and, for
        decoding, chunks (the number of tokens in each step). At the level "lm": the same and model.
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
