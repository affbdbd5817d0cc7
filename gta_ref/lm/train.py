"""Training a decoder language model: the loop. A run is in :mod:`gta_ref.lm.run`, its files in ``run_files``.

Step t draws its batch with a generator that is seeded by (seed, t). So a run that continues from a file draws what the
uninterrupted run would have drawn, and its losses are the same to the last bit on the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref.core.engines import ENGINES
from gta_ref.errors import check_choice, check_type, refuse
from gta_ref.lm import model, optimizer
from gta_ref.lm.gradient import loss_and_gradient
from gta_ref.lm.run import Run, Settings, State
from gta_ref.lm.run_files import config_from_dict, config_to_dict, load, save
from gta_ref.lm.text import Source
from gta_ref.ops import Array, cross_entropy_forward
from gta_ref.ops.arrays import Params, check_config

__all__ = [
    "DivergedError",
    "Run",
    "Settings",
    "State",
    "advance",
    "begin",
    "config_from_dict",
    "config_to_dict",
    "is_unvalidated",
    "load",
    "save",
    "take_step",
    "validation_loss",
]

# (params, ids, targets, config, engine) → (loss, gradients)
Gradient = Callable[[Params, Array, Array, model.Config, str], tuple[float, dict[str, Array]]]


class DivergedError(ValueError):
    """The loss or its gradient stopped being a finite number."""


def begin(config: model.Config, settings: Settings, source: Source) -> Run:
    """Set up a run before its first step, with random float32 weights.

    Raises
    ------
    ValueError
        If the model's vocabulary is too small for the source, or the source too short for the settings.
    """
    check_config(config, model.Config)
    check_type("settings", settings, Settings, "a gta_ref.lm.train.Settings")
    _check_source(source)
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
    gradient: Gradient = loss_and_gradient,
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
    gradient : callable
        Computes the loss of a batch and its gradient; called like :func:`gta_ref.lm.gradient.loss_and_gradient`, which
        is the default. :mod:`gta_ref.distributed.training` has one for several processes.
    on_step, on_validation : callable, optional
        Called with the run after every step and after every validation, to show progress or to save.

    Raises
    ------
    DivergedError
        If the loss or the gradient's norm is not finite. The message names the step, which is not taken.
    ValueError
        If the source is not the one that the run began with.
    """
    _check_run(run, source, engine, gradient)
    for name, callback in (("on_step", on_step), ("on_validation", on_validation)):
        if callback is not None and not callable(callback):
            refuse(name, callback, "a function or None")
    if source.name != run.source:
        raise ValueError(f"the text is {source.name}; expected {run.source}, with which the run began")
    while True:
        if is_unvalidated(run):  # also at the beginning: the run may have been interrupted in its last validation
            run.validation[run.state.step] = validation_loss(run, source, engine=engine)
            if on_validation is not None:
                on_validation(run)
        if run.state.step >= run.settings.steps:
            return
        began = time.perf_counter()
        state, loss = take_step(run, source, engine, gradient)
        run.losses[state.step - 1 :] = [loss]  # first: if the run is interrupted here, `save` drops the extra loss
        run.state = state
        run.seconds += time.perf_counter() - began
        if on_step is not None:
            on_step(run)


def is_unvalidated(run: Run) -> bool:
    """Whether a validation is due after the run's latest step and has not been done."""
    check_type("run", run, Run, "a gta_ref.lm.train.Run")
    step, settings = run.state.step, run.settings
    due = step > 0 and (step % settings.validate_every == 0 or step == settings.steps)
    return due and step not in run.validation


def take_step(
    run: Run, source: Source, engine: str = "auto", gradient: Gradient = loss_and_gradient
) -> tuple[State, float]:
    """Compute the state after the run's next step, and the loss of that step; the run itself is not changed.

    Raises
    ------
    DivergedError
        If the loss or the gradient's norm is not finite.
    """
    _check_run(run, source, engine, gradient)
    settings, (before, params, moments) = run.settings, run.state
    step = before + 1
    ids, targets = source.batch(np.random.default_rng([settings.seed, step]), settings.batch, settings.length)
    loss, grads = clipped(lambda: gradient(params, ids, targets, run.config, engine), settings.clip, step)
    rate = optimizer.learning_rate(
        step, settings.steps, settings.learning_rate, settings.warmup, settings.final_fraction
    )
    params, moments = optimizer.step(params, grads, moments, step, rate, settings.weight_decay)
    return State(step, params, moments), loss


def clipped(
    gradient: Callable[[], tuple[float, dict[str, Array]]], largest: float, step: int
) -> tuple[float, dict[str, Array]]:
    """Compute a step's loss and gradient, and scale the gradient so that its norm is at most `largest`.

    Raises
    ------
    DivergedError
        If the loss or the gradient's norm is not finite; the message names the step.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported once, below
        loss, grads = gradient()
        grads, norm = optimizer.clip(grads, largest)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(f"step {step}: the loss is {loss:g} and the norm of its gradient {norm:g}")
    return loss, grads


def validation_loss(run: Run, source: Source, *, engine: str = "auto") -> float:
    """Mean loss on the held-out sequences, in nats per token; tokens whose target is to be ignored do not count."""
    _check_run(run, source, engine)
    settings = run.settings
    total, count = 0.0, 0
    for ids, targets in source.held_out(settings.batch, settings.length, settings.validation_sequences):
        logits, _ = model.forward(run.state.params, ids, run.config, engine=engine, need_saved=False)
        counted = int((targets >= 0).sum())
        total += float(cross_entropy_forward(logits, targets)[0]) * counted
        count += counted
    return total / count


def _check_run(run: Any, source: Any, engine: Any, gradient: Any = loss_and_gradient) -> None:
    check_type("run", run, Run, "a gta_ref.lm.train.Run")
    _check_source(source)
    check_choice("engine", engine, ENGINES)
    if not callable(gradient):
        refuse("gradient", gradient, "a function")


def _check_source(source: Any) -> None:
    if isinstance(source, type) or not all(
        hasattr(source, name) for name in ("name", "vocab_size", "batch", "held_out")
    ):
        refuse("source", source, "a gta_ref.lm.text.Source")
