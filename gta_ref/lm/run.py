"""A training run: its settings, its state and its history."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from gta_ref.errors import LARGEST, as_float, as_int, as_positive_float, as_size
from gta_ref.lm import model, optimizer
from gta_ref.ops import Array


@dataclass(frozen=True)
class Settings:
    """How a run is trained.

    Parameters
    ----------
    steps : int
        Default 600.
    batch, length : int
        Sequences per step, and tokens per sequence. Defaults: 16 and 256.
    learning_rate : float
        The peak of the schedule (:func:`gta_ref.lm.optimizer.learning_rate`). Default 3e-3.
    warmup : int
        Steps up to the peak. Default 50.
    final_fraction : float
        Learning rate of the last step as a fraction of the peak. Default 0.1.
    weight_decay : float
        λ of AdamW. Default 0.1.
    clip : float
        Largest norm of the gradient; a larger gradient is scaled down to it. Default 1.
    seed : int
        Seed of the weights and of the batches. Default 0.
    validate_every : int
        Steps from one validation to the next; there is always one after the last step. Default 100.
    validation_sequences : int
        Number of held-out sequences in a validation. Default 256.
    """

    steps: int = 600
    batch: int = 16
    length: int = 256
    learning_rate: float = 3e-3
    warmup: int = 50
    final_fraction: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    validate_every: int = 100
    validation_sequences: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "warmup", "validate_every", "validation_sequences"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        object.__setattr__(self, "seed", as_int("seed", self.seed, at_least=0, at_most=LARGEST))
        for name in ("learning_rate", "final_fraction", "clip"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
        object.__setattr__(self, "weight_decay", as_float("weight_decay", self.weight_decay, "a number of at least 0"))
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r} must be a finite number of at least 0")


class State(NamedTuple):
    """Everything that a step changes; it is replaced as a whole, so an interrupted step leaves the state before it."""

    step: int
    params: dict[str, Array]
    moments: optimizer.Moments


@dataclass
class Run:
    """A training run: its state and its history.

    Attributes
    ----------
    config : model.Config
    settings : Settings
    source : str
        The name of its :class:`~gta_ref.lm.text.Source`.
    state : State
    losses : list of float
        Training loss of every step, in nats per token.
    validation : dict of int to float
        Step → loss on the held-out sequences, in nats per token.
    seconds : float
        Time spent in steps, without validations.
    """

    config: model.Config
    settings: Settings
    source: str
    state: State
    losses: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
