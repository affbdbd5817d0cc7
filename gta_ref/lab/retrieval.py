"""A task of retrieval: records of a key and a value among noise; at the end keys are asked for their values.

    noise (7, 2) noise noise (1, 5) noise … (3, 5) | 1? 7? …     answers: 5 2 …

A record is one token, so that a single layer can solve the task: it can be known only by attending to the record with
the asked key, as far back as it stands, and by reading the value there. Keys and values in tokens of their own would
need two layers that work together, which takes small models many times longer to learn, whatever their attention.
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

    Tokens: a record for every pair of key and value, then a question for every key, an answer for every value, and
    the kinds of noise.

    Attributes
    ----------
    n_records : int
        In a sequence, all with different keys.
    n_asked : int
        Questions at the end, of different keys.
    n_keys, n_values, n_noise : int
    """

    n_records: int = 16
    n_asked: int = 16
    n_keys: int = 32
    n_values: int = 16
    n_noise: int = 8

    @property
    def name(self) -> str:
        """What the batches depend on."""
        return (
            f"retrieval: {self.n_asked} of {self.n_records} records, {self.n_keys} keys, {self.n_values} values, "
            f"{self.n_noise} kinds of noise"
        )

    @property
    def vocab_size(self) -> int:
        """Records, questions, answers, noise."""
        return self.first_answer + self.n_values + self.n_noise

    @property
    def first_question(self) -> int:
        """The token that asks for key 0."""
        return self.n_keys * self.n_values

    @property
    def first_answer(self) -> int:
        """The token of value 0."""
        return self.first_question + self.n_keys

    def batch(self, rng: np.random.Generator, batch: int, length: int) -> Batch:
        """Sequences with their records at random places."""
        ids, targets, _ = self.with_distances(rng, batch, length)
        return ids, targets

    def held_out(self, batch: int, length: int, n_sequences: int) -> Iterator[Batch]:
        """Sequences of a generator that no run begins with."""
        rng = np.random.default_rng([20250617286, self.n_records])
        for first in range(0, n_sequences, batch):
            yield self.batch(rng, min(batch, n_sequences - first), length)

    def with_distances(self, rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, ...]:
        """ids and targets (B, length), and distances (B, length): tokens from a question back to its record.

        distances is 0 where the target does not count, which is everywhere but at questions.
        """
        body = length - self.n_asked
        if body < self.n_records:
            raise ValueError(f"length={length} must be at least {self.n_records + self.n_asked}, records and questions")
        ids = self.first_answer + self.n_values + rng.integers(0, self.n_noise, (batch, length))
        keys = _choose(rng, batch, self.n_keys, self.n_records)
        values = rng.integers(0, self.n_values, (batch, self.n_records))
        places = _choose(rng, batch, body, self.n_records)
        row = np.arange(batch)[:, None]
        ids[row, places] = keys * self.n_values + values
        asked = _choose(rng, batch, self.n_records, self.n_asked)  # which record each question is about
        ids[:, body:] = self.first_question + keys[row, asked]
        targets = np.full((batch, length), IGNORE, dtype=np.int64)
        targets[:, body:] = self.first_answer + values[row, asked]
        distances = np.zeros((batch, length), dtype=np.int64)
        distances[:, body:] = np.arange(body, length) - places[row, asked]
        return ids, targets, distances


def _choose(rng: np.random.Generator, rows: int, of: int, n: int) -> np.ndarray:
    """In every row n different numbers below `of`, in random order; (rows, n)."""
    return rng.random((rows, of)).argsort(axis=1)[:, :n]
