"""What a check is made of: calls with hidden arrays, known mistakes, and calls whose memory is limited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer.

    Attributes
    ----------
    hint : str
        Completes the sentence "Your result equals what comes out when ...".
    answer : function
        Computes the wrong result from a trial's arguments. If it raises, the mistake does not apply to that trial.
    """

    hint: str
    answer: Callable[..., Any]


@dataclass(frozen=True)
class Trial:
    """One call of the student's function.

    Attributes
    ----------
    what : str
        The case in words, for the hint.
    arguments : tuple
        Passed by position; the function receives read-only copies of arrays.
    nan : str
        A sentence with the likely reason if the result has NaN or infinities that no mistake explains.
    """

    what: str
    arguments: tuple[Any, ...]
    nan: str = ""


@dataclass(frozen=True)
class Memory:
    """A call whose memory is limited.

    Attributes
    ----------
    trial : Trial
        The call.
    limit : int
        The most bytes that the function may hold at a time.
    hint : str
        Completes the message that the function holds too much: why, and what to do instead.
    """

    trial: Trial
    limit: int
    hint: str


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float64", factor: float = 1.0) -> np.ndarray:
    """Normal random numbers times `factor`."""
    return (factor * rng.standard_normal(shape)).astype(dtype)


def random_maps(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> np.ndarray:
    """Random maps: rows that sum to 1."""
    x = np.exp(rng.standard_normal(shape))
    return (x / x.sum(-1, keepdims=True)).astype(dtype)
