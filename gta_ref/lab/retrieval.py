"""A retrieval task: records, each a key and a value, among noise; the questions at the end ask for the values of keys.

    noise (7, 2) noise noise (1, 5) noise … (3, 5) | 1? 7? …     answers: 5 2 …

A record is one token, so that a single layer can solve the task. The only way to the answer is to attend to the record
with the key in question, however far back it is, and to read its value. If keys and values were separate tokens, two
layers would have to work together; small models take many times longer to learn that, whatever their attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gta_ref.lm.text import Batch
from gta_ref.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class Retrieval:
    """The retrieval task; it is a :class:`gta_ref.lm.text.Source`.

    The tokens are a record for every pair of key and value, then a question for every key, an answer for every value,
    and the kinds of noise.

    Attributes
    ----------
    n_records : int
        Records in a sequence, all with different keys.
    n_asked : int
        Questions at the end, all about different keys.
    n_keys, n_values, n_noise : int
        How many different keys, values and kinds of noise there are.
    """

    n_records: int = 16
    n_asked: int = 16
    n_keys: int = 32
    n_values: int = 16
    n_noise: int = 8

    @property
    def name(self) -> str:
        """A name that states everything the batches depend on."""
        return (
            f"retrieval: {self.n_asked} of {self.n_records} records, {self.n_keys} keys, {self.n_values} values, "
            f"{self.n_noise} kinds of noise"
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens: records, questions, answers and kinds of noise."""
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
        """Draw sequences with their records at random positions."""
        ids, targets, _ = self.with_distances(rng, batch, length)
        return ids, targets

    def held_out(self, batch: int, length: int, n_sequences: int) -> Iterator[Batch]:
        """Yield sequences from a generator whose seed no training run uses."""
        rng = np.random.default_rng([20250617286, self.n_records])
        for first in range(0, n_sequences, batch):
            yield self.batch(rng, min(batch, n_sequences - first), length)

    def with_distances(self, rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, ...]:
        """Draw ids and targets (B, length), and distances (B, length): tokens from a question back to its record.

        A distance is 0 if the target does not count; only the targets of questions count.

        Raises
        ------
        ValueError
            If `length` is too small for the records and the questions.
        """
        body = length - self.n_asked
        if body < self.n_records:
            raise ValueError(
                f"length={length} must be at least {self.n_records + self.n_asked} for all records and questions"
            )
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
    """Draw n different numbers below `of` for every row, in random order: (rows, n)."""
    return rng.random((rows, of)).argsort(axis=1)[:, :n]
