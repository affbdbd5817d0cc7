"""Training a decoder language model: the loop, the state of a run, and files from which a run can continue.

Step t draws its batch with a generator that is seeded by (seed, t). So a run that continues from a file draws what the
uninterrupted run would have drawn, and its losses are the same to the last bit on the same number of threads.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gta_ref import mechanisms
from gta_ref.errors import as_int, as_positive_float, check_names, check_shape
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.lm import model, optimizer
from gta_ref.lm.gradient import loss_and_gradient
from gta_ref.lm.text import Source
from gta_ref.ops import Array, as_dtype, cross_entropy_forward

FORMAT = "gta_ref training run 1"


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
            object.__setattr__(self, name, as_int(name, getattr(self, name), at_least=1))
        object.__setattr__(self, "seed", as_int("seed", self.seed, at_least=0))
        for name in ("learning_rate", "final_fraction", "clip"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
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


class DivergedError(ValueError):
    """The loss or its gradient stopped being a finite number."""


def begin(config: model.Config, settings: Settings, source: Source) -> Run:
    """Set up a run before its first step, with random float32 weights.

    Raises
    ------
    ValueError
        If the model's vocabulary is too small for the source, or the source too short for the settings.
    """
    if config.vocab_size < source.vocab_size:
        raise ValueError(f"vocab_size={config.vocab_size} must be at least that of the text, {source.vocab_size}")
    next(source.held_out(1, settings.length, 1))  # so that a text that is too short is refused now
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
        Changed in place, step by step. After an exception from anywhere, it is as after its last complete step.
    source : Source
        The one that the run began with.
    engine : str
        Engine of the attention core. Default "auto".
    on_step, on_validation : callable, optional
        Called with the run after every step and after every validation, to show progress or to save.

    Raises
    ------
    DivergedError
        If the loss or the gradient's norm is not finite. The message names the step, which is not taken.
    ValueError
        If the source is not the one that the run began with.
    """
    if source.name != run.source:
        raise ValueError(f"the text is {source.name}; expected {run.source}, with which the run began")
    while run.state.step < run.settings.steps:
        began = time.perf_counter()
        state, loss = take_step(run, source, engine)
        run.losses[state.step - 1 :] = [loss]  # first: if the run is interrupted here, `save` drops the extra loss
        run.state = state
        run.seconds += time.perf_counter() - began
        if on_step is not None:
            on_step(run)
        if state.step % run.settings.validate_every == 0 or state.step == run.settings.steps:
            run.validation[state.step] = validation_loss(run, source, engine=engine)
            if on_validation is not None:
                on_validation(run)


def take_step(run: Run, source: Source, engine: str = "auto") -> tuple[State, float]:
    """Compute the state after the run's next step, and the loss of that step; the run itself is not changed.

    Raises
    ------
    DivergedError
        If the loss or the gradient's norm is not finite.
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
    """Mean loss on the held-out sequences, in nats per token; tokens whose target is to be ignored do not count."""
    settings = run.settings
    total, count = 0.0, 0
    for ids, targets in source.held_out(settings.batch, settings.length, settings.validation_sequences):
        logits, _ = model.forward(run.state.params, ids, run.config, engine=engine, need_saved=False)
        counted = int((targets >= 0).sum())
        total += float(cross_entropy_forward(logits, targets)[0]) * counted
        count += counted
    return total / count


def save(path: str | os.PathLike[str], run: Run) -> None:
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


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run that :func:`save` has written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, not a training run, or says something about the run that does not fit the rest.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training run; expected a file that gta-ref train has written")
    try:
        return _run(parse_json(metadata["run"]), tensors)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: an incomplete training run ({one_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _run(about: Any, tensors: dict[str, Array]) -> Run:
    """Make a run from the content of its file; raise an exception if anything does not fit the rest."""
    for name, kind in (("config", dict), ("settings", dict), ("validation", dict), ("source", str)):
        _check_type(name, about[name], kind)
    if not about["source"].isprintable():
        raise ValueError(f"source={about['source']!r} has characters that cannot be printed")
    check_names("settings", about["settings"], [f.name for f in dataclasses.fields(Settings)])
    settings = Settings(**about["settings"])
    step = as_int("step", about["step"], at_least=0)
    if step > settings.steps:
        raise ValueError(f"step={step} must be at most {settings.steps}, the number of steps")
    losses = tensors["losses"]
    check_shape("losses", losses, ("steps",))
    if losses.dtype != np.float64 or len(losses) != step:
        raise ValueError(f"{len(losses)} losses of dtype {losses.dtype}; expected {step}, one per step, of float64")
    seconds = about["seconds"]
    if type(seconds) not in (int, float) or not 0.0 <= seconds <= sys.float_info.max:
        raise ValueError(f"seconds={seconds!r} must be a finite number of at least 0")
    for key, loss in about["validation"].items():
        if not (key.isdecimal() and str(int(key)) == key and 1 <= int(key) <= step and type(loss) is float):
            raise ValueError(f"validation has {key!r}: {loss!r}; expected steps up to {step} and their losses")
    config = config_from_dict(about["config"])
    if config.n_layers > len(tensors):  # before the shapes of all layers are listed
        raise ValueError(f"n_layers={config.n_layers} does not fit {len(tensors)} tensors")
    shapes = model.param_shapes(config)
    params, m, v = ({name: tensors[f"{kind}.{name}"] for name in shapes} for kind in ("params", "m", "v"))
    for name, shape in shapes.items():
        if not params[name].shape == m[name].shape == v[name].shape == shape:
            raise ValueError(f"{name} has another shape than {shape}")
    dtypes = sorted({str(x.dtype) for part in (params, m, v) for x in part.values()})
    if len(dtypes) > 1:
        raise ValueError(f"the parameters and moments have the dtypes {', '.join(dtypes)}; expected one")
    as_dtype(dtypes[0])
    validation = {int(key): loss for key, loss in about["validation"].items()}
    state = State(step, params, optimizer.Moments(m, v))
    return Run(config, settings, about["source"], state, losses.tolist(), validation, float(seconds))


def config_to_dict(config: model.Config) -> dict[str, Any]:
    """A model's configuration as plain JSON."""
    return dataclasses.asdict(config)


def config_from_dict(content: dict[str, Any]) -> model.Config:
    """The inverse of :func:`config_to_dict`."""
    check_names("config", content, [f.name for f in dataclasses.fields(model.Config)])
    _check_type("attention", content["attention"], dict)
    module = mechanisms.load(content["mechanism"])
    check_names("attention", content["attention"], [f.name for f in dataclasses.fields(module.Config) if f.init])
    attention = module.Config(**content["attention"])
    return model.Config(**{**content, "attention": attention})


def _check_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a {expected.__name__}")
