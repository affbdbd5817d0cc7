"""``gta-ref bench lm``: training steps of a small language model, beside PyTorch eager, in turn in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref.bench import machine
from gta_ref.bench.core import PAUSE
from gta_ref.bench.machine import seconds
from gta_ref.lm import model, small, train
from gta_ref.lm.text import Text

SETTINGS = train.Settings(steps=1000, batch=16, length=256)
MODELS = ("gta", "gqa")
ROUNDS = 15
# Both sides add float32 numbers in their own order; a few roundings a layer, far below any mistake.
ALLOWED = 1e-4  # relative to the largest gradient of a parameter


def run(against_torch: bool, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Measure a whole step: forward, backward, clipping, AdamW.

    Parameters
    ----------
    against_torch, quick : bool
    progress : callable
        Called with the name of what comes next.

    Returns
    -------
    figures : dict
        machine, batch, length, and models: name → parameters, and contestants: name → seconds (median of a step),
        tokens_per_second, times_numba (median over rounds), error (of the gradients, against PyTorch's) and wrong.
    """
    found: dict[str, Any] = {"machine": machine.describe(), "batch": SETTINGS.batch, "length": SETTINGS.length}
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 100_000).astype(np.uint8)  # what is learnt does not change the speed
    source = Text("random bytes", content, content)
    found["models"] = {}
    for name in MODELS:
        progress(name)
        found["models"][name] = measure(name, source, against_torch, 3 if quick else ROUNDS)
    return found


def measure(name: str, source: Text, against_torch: bool, rounds: int) -> dict[str, Any]:
    """Check and time one model on every engine and in PyTorch."""
    config = small.config(name)
    batch = source.batch(np.random.default_rng(0), SETTINGS.batch, SETTINGS.length)
    steps: dict[str, Callable[[], Any]] = {e: _training(config, source, e) for e in ("numba", "reference")}
    error = None
    if against_torch:
        from gta_ref.bench.lm_torch import Model

        peer = Model(config, train.begin(config, SETTINGS, source).state.params, SETTINGS)
        error = gradient_error(config, peer, batch)
        steps["torch eager"] = lambda: peer.step(*batch)
    if error is not None and not error <= ALLOWED:  # NaN is wrong as well
        return {"parameters": small.n_parameters(config), "error": error, "wrong": True, "contestants": {}}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {contestant: [] for contestant in steps}
    names = list(steps)
    for turn in range(rounds):
        first = turn % len(names)
        for contestant in names[first:] + names[:first]:
            time.sleep(PAUSE)
            times[contestant].append(seconds(steps[contestant]))
    return {
        "parameters": small.n_parameters(config),
        "error": error,
        "wrong": False,
        "contestants": {
            contestant: {
                "seconds": statistics.median(taken),
                "tokens_per_second": SETTINGS.batch * SETTINGS.length / statistics.median(taken),
                "times_numba": statistics.median(t / n for t, n in zip(taken, times["numba"], strict=True)),
            }
            for contestant, taken in times.items()
        },
    }


def gradient_error(config: model.Config, peer: Any, batch: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest difference of a gradient to PyTorch's, relative to the largest value of that gradient."""
    params = {name: p.detach().numpy() for name, p in peer.params.items()}
    _, saved = model.loss_forward(params, batch[0], config, targets=batch[1])
    grads = model.loss_backward(saved)
    peer.loss(*batch).backward()
    theirs = {name: p.grad.numpy() for name, p in peer.params.items()}
    return max(float(np.abs(grads[n] - g).max() / np.abs(g).max()) for n, g in theirs.items())


def _training(config: model.Config, source: Text, engine: str) -> Callable[[], None]:
    run = train.begin(config, SETTINGS, source)

    def step() -> None:
        run.state, _ = train.take_step(run, source, engine)

    return step
