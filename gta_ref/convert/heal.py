"""Healing: a converted model learns from the original what the closed form has lost, first layer by layer.

Only the attention is trained, and in the second stage the gains of the norms; embedding, MLPs and head stay those of
the original. Step t draws its text with a generator that is seeded by (seed, t), so a run that continues from a file
computes what the uninterrupted run would have computed, to the last bit on the same number of threads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gta_ref.convert import distil
from gta_ref.convert.original import Original
from gta_ref.convert.texts import Corpus
from gta_ref.errors import LARGEST, as_int, as_positive_float, as_size
from gta_ref.lm import model, optimizer
from gta_ref.lm.train import clipped
from gta_ref.mechanisms import gqa, gta
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params, check_config, check_params_alone

CLIP = 1.0  # largest norm of a gradient
FINAL = 0.1  # learning rate of a stage's last step, as a fraction of its peak
WARMUP = 20  # steps up to the peak of a stage, or a fifth of the stage if that is less


@dataclass(frozen=True)
class Settings:
    """How a model is healed. A stage of 0 steps is left out.

    Parameters
    ----------
    layer_steps, steps : int
        Steps layer by layer, and then end to end. Defaults: 600 and 300.
    batch, length : int
        Sequences per step, and tokens per sequence. Defaults: 8 and 256.
    layer_rate, rate : float
        The peaks of the two stages' learning rates. Defaults: 3e-3 and 2e-4.
    seed : int
        Of the text that is drawn. Default 0.
    """

    layer_steps: int = 600
    steps: int = 300
    batch: int = 8
    length: int = 256
    layer_rate: float = 3e-3
    rate: float = 2e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layer_steps", "steps"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), at_least=0, at_most=LARGEST))
        for name in ("batch", "length"):
            object.__setattr__(self, name, as_size(name, getattr(self, name)))
        for name in ("layer_rate", "rate"):
            object.__setattr__(self, name, as_positive_float(name, getattr(self, name)))
        object.__setattr__(self, "seed", as_int("seed", self.seed, at_least=0, at_most=LARGEST))

    @property
    def total(self) -> int:
        """Steps of both stages."""
        return self.layer_steps + self.steps


# To see that healing runs. The first steps of AdamW have the size of the rate, whatever the gradient: so few steps must
# be small ones.
QUICK = Settings(layer_steps=6, steps=4, batch=2, length=128, layer_rate=2e-4, rate=5e-5)


class State(NamedTuple):
    """Everything that a step changes; it is replaced as a whole, so an interrupted step leaves the state before it.

    Attributes
    ----------
    step : int
    trained : dict of str to array
        The parameters that are trained, in both stages the same.
    moments : gta_ref.lm.optimizer.Moments
        Of those that the stage in hand trains; they start from zero in each stage.
    """

    step: int
    trained: dict[str, Array]
    moments: optimizer.Moments


@dataclass
class Healing:
    """A model that is being healed.

    Attributes
    ----------
    config : gta_ref.lm.model.Config
    settings : Settings
    text : str
        The name of its :class:`~gta_ref.convert.texts.Corpus`.
    digest : str
        Of the parameters that are trained, as they were before the first step.
    frozen : dict of str to array
        The parameters that are not trained.
    state : State
    losses : list of float
        Of every step: see :mod:`gta_ref.convert.distil` for the units of the two stages.
    seconds : float
        Time spent in steps.
    """

    config: model.Config
    settings: Settings
    text: str
    digest: str
    frozen: Params
    state: State
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def params(self) -> dict[str, Array]:
        """All parameters of the model as it is now."""
        every = {**self.frozen, **self.state.trained}
        return {name: every[name] for name in model.param_shapes(self.config)}


def is_trained(name: str) -> bool:
    """Whether healing changes a parameter: one of the attention, or a gain of a norm."""
    return ".attention." in name or name.rpartition(".")[2].startswith("norm")


def begin(params: Params, config: model.Config, settings: Settings, corpus: Corpus) -> Healing:
    """Set up the healing of a converted model, before its first step.

    Raises
    ------
    ValueError
        If the model is not GTA, or the parameters are not its own.
    """
    check_config(config, model.Config)
    if config.module is not gta:
        raise ValueError(f"mechanism={config.mechanism!r} must be 'gta': only a converted model is healed")
    check_params_alone(params, model.param_shapes(config))
    trained = {name: w for name, w in params.items() if is_trained(name)}
    frozen = {name: w for name, w in params.items() if name not in trained}
    state = State(0, trained, _fresh(trained, 0, settings))
    return Healing(config, settings, corpus.name, _digest(trained), frozen, state)


def advance(
    healing: Healing, original: Original, corpus: Corpus, *, on_step: Callable[[Healing], Any] | None = None
) -> None:
    """Take all steps that are left.

    Parameters
    ----------
    healing : Healing
        Changed in place, step by step. After an exception from anywhere, it is as after its last complete step.
    original : Original
    corpus : Corpus
        The one that the healing began with.
    on_step : callable, optional
        Called with the healing after every step, to show progress or to save.

    Raises
    ------
    gta_ref.lm.train.DivergedError
        If the loss or the norm of its gradient is not finite. The message names the step, which is not taken.
    ValueError
        If the original is no GQA model of the same layers and width, or the corpus is not the one of the beginning.
    """
    if original.config.module is not gqa:
        raise ValueError(f"original is of mechanism={original.config.mechanism!r}; expected 'gqa'")
    for name in ("vocab_size", "n_layers", "hidden_size"):
        ours, theirs = getattr(healing.config, name), getattr(original.config, name)
        if ours != theirs:
            raise ValueError(f"{name}={ours} must be {theirs}, as in the original")
    if corpus.name != healing.text:
        raise ValueError(f"the text is {corpus.name}; expected {healing.text}, with which the healing began")
    while healing.state.step < healing.settings.total:
        began = time.perf_counter()
        state, loss = take_step(healing, original, corpus)
        healing.losses[state.step - 1 :] = [loss]
        healing.state = state
        healing.seconds += time.perf_counter() - began
        if on_step is not None:
            on_step(healing)


def take_step(healing: Healing, original: Original, corpus: Corpus) -> tuple[State, float]:
    """Compute the state after the next step, and the loss of that step; the healing itself is not changed."""
    settings, (before, trained, moments) = healing.settings, healing.state
    step = before + 1
    by_layers = step <= settings.layer_steps
    gradient = distil.by_layers if by_layers else distil.end_to_end
    ids = corpus.batch(np.random.default_rng([settings.seed, step]), settings.batch, settings.length)
    loss, grads = clipped(lambda: gradient(healing.params, healing.config, original, ids), CLIP, step)
    if by_layers:
        count, steps, peak = step, settings.layer_steps, settings.layer_rate
    else:
        count, steps, peak = step - settings.layer_steps, settings.steps, settings.rate
    rate = optimizer.learning_rate(count, steps, peak, min(WARMUP, max(1, steps // 5)), FINAL)
    some = {name: trained[name] for name in grads}
    some, moments = optimizer.step(some, grads, moments, count, rate, weight_decay=0.0)
    trained = {**trained, **some}
    if step == settings.layer_steps:
        moments = _fresh(trained, step, settings)
    return State(step, trained, moments), loss


def _digest(params: Params) -> str:
    found = hashlib.sha256()
    for w in params.values():
        found.update(w.tobytes())
    return found.hexdigest()[:12]


def next_trains(trained: Params, step: int, settings: Settings) -> dict[str, Array]:
    """Those of the parameters that the stage trains to which the step after `step` belongs."""
    by_layers = step < settings.layer_steps
    return {name: w for name, w in trained.items() if ".attention." in name or not by_layers}


def _fresh(trained: Params, step: int, settings: Settings) -> optimizer.Moments:
    """Moments before the first step of the stage that follows after `step` steps."""
    return optimizer.zeros(next_trains(trained, step, settings))
