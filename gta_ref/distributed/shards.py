"""Which tokens of a sequence each rank holds.

"contiguous": rank r holds the r-th of R equal parts. With a causal mask the last rank then has nearly twice the average
work. "zigzag": the sequence is cut into 2R parts, and rank r holds parts r and 2R − 1 − r, so that all ranks have the
same number of visible pairs of a query and a key:

    parts        0  1  2  3  4  5  6  7
    rank         0  1  2  3  3  2  1  0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.core.mask import Mask
from gta_ref.errors import as_size, check_choice
from gta_ref.ops import Array

LAYOUTS = ("contiguous", "zigzag")


@dataclass(frozen=True)
class Shards:
    """The tokens of each rank.

    Parameters
    ----------
    length : int
        Number of tokens of a sequence, padding included; a multiple of the number of parts.
    ranks : int
    layout : {"contiguous", "zigzag"}
    """

    length: int
    ranks: int
    layout: str = "zigzag"

    def __post_init__(self) -> None:
        as_size("length", self.length)
        as_size("ranks", self.ranks)
        check_choice("layout", self.layout, LAYOUTS)
        parts = self.ranks * (2 if self.layout == "zigzag" else 1)
        if self.length % parts:
            raise ValueError(
                f"length={self.length} must be a multiple of {parts}, the parts of layout {self.layout!r} "
                f"for {self.ranks} ranks: pad the sequences"
            )

    @property
    def local(self) -> int:
        """Number of tokens per rank."""
        return self.length // self.ranks

    def pieces(self, rank: int) -> list[tuple[int, int]]:
        """The runs of adjacent tokens that a rank holds, each as its first token and one past its last, in order."""
        if self.layout == "contiguous" or self.ranks == 1:
            return [(rank * self.local, (rank + 1) * self.local)]
        half, mirror = self.local // 2, 2 * self.ranks - 1 - rank
        first, second = (rank * half, (rank + 1) * half), (mirror * half, (mirror + 1) * half)
        return [(first[0], second[1])] if first[1] == second[0] else [first, second]

    def tokens(self, rank: int) -> np.ndarray:
        """The numbers of a rank's tokens, (local,) int64, in the order in which the rank holds them."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.pieces(rank)])

    def cut(self, x: Array, rank: int, axis: int) -> Array:
        """A rank's tokens of a whole array, as a copy."""
        return np.take(x, self.tokens(rank), axis=axis)

    def join(self, parts: list[Array], axis: int) -> Array:
        """The whole array from the tokens of all ranks, in the order of the ranks."""
        order = np.argsort(np.concatenate([self.tokens(rank) for rank in range(self.ranks)]))
        found: Array = np.take(np.concatenate(parts, axis=axis), order, axis=axis)
        return found


def mask_of_pieces(mask: Mask, batch: int, length: int, queries: tuple[int, int], keys: tuple[int, int]) -> Mask | None:
    """The mask between a piece of the queries and a piece of the keys; None if no query sees a key.

    Parameters
    ----------
    mask : Mask
        Of the whole sequences, with as many queries as keys.
    batch, length : int
    queries, keys : (int, int)
        First token and one past the last.
    """
    q_start, k_start, k_stop = mask.resolve(batch, length, length)
    first, n_keys = keys[0], keys[1] - keys[0]
    own_start, own_stop = (np.clip(bound - first, 0, n_keys) for bound in (k_start, k_stop))
    own_q: Any = q_start + queries[0] - first
    last = own_q + (queries[1] - queries[0]) - 1 if mask.causal else np.full(batch, n_keys)
    if not ((own_start < own_stop) & (last >= own_start)).any():
        return None
    return Mask(mask.causal, own_q, own_start, own_stop)
