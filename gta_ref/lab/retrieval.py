"""A task of retrieval: pairs of a key and a value stand among noise; at the end keys are asked for their values.

    noise noise K7 V2 noise K1 V5 noise … noise | K1 V5 K7 V2 …

Only the token after an asked key counts, and it can be known only by attending to the pair, however far back it
stands. This is associative recall; a model solves it by two layers that work together (the token before a value is
found in one, the key is matched in the next), or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gta_ref.lm.text import Batch
from gta_ref.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class Retrieval:
    """The task; it is a :class:`gta_ref.lm.text.Source`.

    Tokens: 0 … n_symbols − 1 are keys, the next n_symbols are values, the last n_noise are noise.

    Attributes
    ----------
    n_pairs : int
        In a sequence, all with different keys; every one is asked for, in another order.
    n_symbols, n_noise : int
    """

    n_pairs: int = 8
    n_symbols: int = 32
    n_noise: int = 16

    @property
    def name(self) -> str:
        """What the batches depend on."""
        return f"retrieval of {self.n_pairs} pairs, {self.n_symbols} keys and values, {self.n_noise} kinds of noise"

    @property
    def vocab_size(self) -> int:
        """Keys, values and noise."""
        return 2 * self.n_symbols + self.n_noise

    def batch(self, rng: np.random.Generator, batch: int, length: int) -> Batch:
        """Sequences with their pairs at random places."""
        ids, targets, _ = self.with_distances(rng, batch, length)
        return ids, targets

    def held_out(self, batch: int, length: int, n_sequences: int) -> Iterator[Batch]:
        """Sequences of a generator that no run begins with."""
        rng = np.random.default_rng([20250617286, self.n_pairs])
        for first in range(0, n_sequences, batch):
            yield self.batch(rng, min(batch, n_sequences - first), length)

    def with_distances(self, rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, ...]:
        """ids and targets (B, length), and distances (B, length): tokens from an asked key back to its pair.

        distances is 0 where the target does not count.
        """
        asked = 2 * self.n_pairs  # tokens at the end
        slots = (length - asked) // 2  # places for a pair, two tokens each
        if slots < self.n_pairs:
            raise ValueError(f"length={length} must be at least {2 * asked} for {self.n_pairs} pairs")
        noise = 2 * self.n_symbols + rng.integers(0, self.n_noise, (batch, length + 1))
        ids = noise.astype(np.int64)
        keys = _choose(rng, batch, self.n_symbols, self.n_pairs)
        values = self.n_symbols + rng.integers(0, self.n_symbols, (batch, self.n_pairs))
        places = 2 * _choose(rng, batch, slots, self.n_pairs)  # (B, n_pairs)
        order = _choose(rng, batch, self.n_pairs, self.n_pairs)
        row = np.arange(batch)[:, None]
        ids[row, places], ids[row, places + 1] = keys, values
        at = length - asked + 2 * np.arange(self.n_pairs)
        ids[:, at] = np.take_along_axis(keys, order, 1)
        ids[:, at + 1] = np.take_along_axis(values, order, 1)
        targets = np.full((batch, length), IGNORE, dtype=np.int64)
        targets[:, at] = ids[:, at + 1]
        distances = np.zeros((batch, length), dtype=np.int64)
        distances[:, at] = at - np.take_along_axis(places, order, 1)
        return ids[:, :length], targets, distances


def _choose(rng: np.random.Generator, rows: int, of: int, n: int) -> np.ndarray:
    """In every row n different numbers below `of`, in random order; (rows, n)."""
    return rng.random((rows, of)).argsort(axis=1)[:, :n]
