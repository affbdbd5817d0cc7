"""Training a decoder language model: the loop, what it remembers, and files that it can go on from.

Step t draws its batch by a generator made from (seed, t), so a run that goes on from a file draws what the run
without a break would have drawn, and the losses are the same to the last bit on the same number of threads.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gta_ref import mechanisms
from gta_ref.errors import as_int, as_positive_float
from gta_ref.files import read_tensors, write_tensors
from gta_ref.lm import model, optimizer
from gta_ref.lm.gradient import loss_and_gradient
from gta_ref.lm.text import Source
from gta_ref.ops import Array, cross_entropy_forward

FORMAT = "gta_ref training run 1"


@dataclass(frozen=True)
class Settings:
    """How a run is trained.

    Parameters
    ----------
    steps : int
    batch, length : int
        Sequences a step, and tokens of each.
    learning_rate : float
        The peak of the schedule (:func:`gta_ref.lm.optimizer.learning_rate`).
    warmup : int
        Steps up to the peak.
    final_fraction : float
        Of the peak, at the last step.
    weight_decay : float
    clip : float
        Largest norm of the gradient.
    seed : int
        Of the weights and of the batches.
    validate_every : int
        Steps from one validation to the next; the last step is always followed by one.
    validation_sequences : int
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
            object.__setattr__(self, name, as_int(name, getattr(self, name), at_least=1))
        object.__setattr__(self, "seed", as_int("seed", self.seed, at_least=0))
        for name in ("learning_rate", "final_fraction", "clip"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r} must be a finite number of at least 0")


class State(NamedTuple):
    """What a step changes, all at once: an interrupted step leaves the one before."""

    step: int
    params: dict[str, Array]
    moments: optimizer.Moments


@dataclass
class Run:
    """A training run: where it stands and how it came there.

    Attributes
    ----------
    config : model.Config
    settings : Settings
    source : str
        The name of its :class:`~gta_ref.lm.text.Source`.
    state : State
    losses : list of float
        Training loss of every step, in nats a token.
    validation : dict of int to float
        Step → loss on the sequences held out.
    seconds : float
        Spent in steps, validations not counted.
    """

    config: model.Config
    settings: Settings
    source: str
    state: State
    losses: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


class DivergedError(ValueError):
    """The loss or its gradient stopped being a finite number."""


def begin(config: model.Config, settings: Settings, source: Source) -> Run:
    """Set up a run before its first step, with random float32 weights."""
    if config.vocab_size < source.vocab_size:
        raise ValueError(f"vocab_size={config.vocab_size} must be at least that of the text, {source.vocab_size}")
    next(source.held_out(1, settings.length, 1))  # a text too short is to be known now
    params = model.init(config, np.random.default_rng([settings.seed, 0]))
    return Run(config, settings, source.name, State(0, params, optimizer.zeros(params)))


def advance(
    run: Run,
    source: Source,
    *,
    engine: str = "auto",
    on_step: Callable[[Run], None] | None = None,
    on_validation: Callable[[Run], None] | None = None,
) -> None:
    """Train until the last step of the run's settings.

    Parameters
    ----------
    run : Run
        Changed in place, a step at a time. An exception from anywhere leaves it as after its last whole step.
    source : Source
        The one that the run began with.
    engine : str
        Of the attention core.
    on_step, on_validation : callable, optional
        Called with the run after each; a place to show progress or to save.

    Raises
    ------
    DivergedError
        Where the loss or the gradient's norm is not finite; it names the step, which is not taken.
    ValueError
        Where the source is another.
    """
    if source.name != run.source:
        raise ValueError(f"the text is {source.name}; expected the run's, {run.source}")
    while run.state.step < run.settings.steps:
        began = time.perf_counter()
        state, loss = take_step(run, source, engine)
        run.losses[state.step - 1 :] = [loss]  # first: a loss too many, after a break here, is dropped on saving
        run.state = state
        run.seconds += time.perf_counter() - began
        if on_step is not None:
            on_step(run)
        if state.step % run.settings.validate_every == 0 or state.step == run.settings.steps:
            run.validation[state.step] = validation_loss(run, source, engine=engine)
            if on_validation is not None:
                on_validation(run)


def take_step(run: Run, source: Source, engine: str = "auto") -> tuple[State, float]:
    """What the run's next step gives, and its loss; the run itself is left as it is.

    Raises
    ------
    DivergedError
    """
    settings, (before, params, moments) = run.settings, run.state
    step = before + 1
    ids, targets = source.batch(np.random.default_rng([settings.seed, step]), settings.batch, settings.length)
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is reported once, below
        loss, grads = loss_and_gradient(params, ids, targets, run.config, engine)
        grads, norm = optimizer.clip(grads, settings.clip)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(f"step {step}: the loss is {loss:g} and the norm of its gradient {norm:g}")
    rate = optimizer.learning_rate(
        step, settings.steps, settings.learning_rate, settings.warmup, settings.final_fraction
    )
    params, moments = optimizer.step(params, grads, moments, step, rate, settings.weight_decay)
    return State(step, params, moments), loss


def validation_loss(run: Run, source: Source, *, engine: str = "auto") -> float:
    """Mean loss in nats a token on the sequences held out, those whose target is to be ignored not counted."""
    settings = run.settings
    total, count = 0.0, 0
    for ids, targets in source.held_out(settings.batch, settings.length, settings.validation_sequences):
        logits, _ = model.forward(run.state.params, ids, run.config, engine=engine, need_saved=False)
        counted = int((targets >= 0).sum())
        total += float(cross_entropy_forward(logits, targets)[0]) * counted
        count += counted
    return total / count


def save(path: str | os.PathLike, run: Run) -> None:
    """Write the run to a safetensors file, whole or not at all."""
    step, params, moments = run.state
    tensors = {f"params.{name}": p for name, p in params.items()}
    tensors |= {f"m.{name}": m for name, m in moments.m.items()} | {f"v.{name}": v for name, v in moments.v.items()}
    tensors["losses"] = np.array(run.losses[:step])
    about = {
        "config": config_to_dict(run.config),
        "settings": dataclasses.asdict(run.settings),
        "source": run.source,
        "step": step,
        "validation": {str(k): v for k, v in run.validation.items() if k <= step},
        "seconds": run.seconds,
    }
    write_tensors(path, tensors, {"format": FORMAT, "run": json.dumps(about)})


def load(path: str | os.PathLike) -> Run:
    """Read a run that :func:`save` has written.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where the file is damaged, or not a training run.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training run; expected a file that gta-ref train has written")
    try:
        about = json.loads(metadata["run"])
        config = config_from_dict(about["config"])
        shapes = model.param_shapes(config)
        params, m, v = ({name: tensors[f"{kind}.{name}"] for name in shapes} for kind in ("params", "m", "v"))
        for name, shape in shapes.items():
            if not params[name].shape == m[name].shape == v[name].shape == shape:
                raise ValueError(f"{name} has another shape than {shape}")
        return Run(
            config,
            Settings(**about["settings"]),
            about["source"],
            State(about["step"], params, optimizer.Moments(m, v)),
            tensors["losses"].tolist(),
            {int(k): v for k, v in about["validation"].items()},
            about["seconds"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an incomplete training run ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def config_to_dict(config: model.Config) -> dict[str, Any]:
    """A model's configuration as plain JSON."""
    return dataclasses.asdict(config)


def config_from_dict(content: dict[str, Any]) -> model.Config:
    """The inverse of :func:`config_to_dict`."""
    attention = mechanisms.load(content["mechanism"]).Config(**content["attention"])
    return model.Config(**{**content, "attention": attention})
