"""``gta-ref bench lm``: time training steps of small language models, in turn with PyTorch eager in one process."""

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
from gta_ref.lm.gradient import loss_and_gradient
from gta_ref.lm.text import Text

SETTINGS = train.Settings(steps=1000, batch=16, length=256)
AGAINST = ("gta", "gqa")  # models that PyTorch and the engine "reference" train, too
ROUNDS = 15
# The two sides add float32 numbers in different orders, which makes a few roundings per layer, far less than a mistake.
ALLOWED = 1e-4  # relative to the largest element of a parameter's gradient


def run(against_torch: bool, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Time a whole training step: forward, backward, clipping and AdamW.

    Parameters
    ----------
    against_torch : bool
        Whether PyTorch trains the same models, too.
    quick : bool
        Measure few rounds, only to see that the benchmark runs.
    progress : callable
        Called with the name of the next measurement.

    Returns
    -------
    figures : dict
        machine, batch, length, and models: name → parameters, error (of the gradients against PyTorch's, or None),
        times_gqa (the step's time ÷ GQA's, median over rounds), and contestants: name → seconds (median),
        tokens_per_second, times_numba (time ÷ numba's, median over rounds). A contestant with wrong gradients is not
        timed.
    """
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 100_000).astype(np.uint8)  # the text does not change the speed
    source = Text("random bytes", content, content)
    steps: dict[tuple[str, str], Callable[[], Any]] = {}
    models: dict[str, Any] = {}
    for name in small.NAMES:
        progress(f"{name}: compiling and checking")
        config = small.config(name)
        models[name] = {"parameters": small.n_parameters(config), "error": None}
        for engine in ("numba", "reference") if name in AGAINST else ("numba",):
            steps[name, engine] = _training(config, source, engine)
        if against_torch and name in AGAINST:
            models[name]["error"], steps[name, "torch eager"] = _peer(config, source)
            if not models[name]["error"] <= ALLOWED:  # NaN is wrong as well
                del steps[name, "torch eager"]
    times = _in_turn(steps, 3 if quick else ROUNDS, progress)
    for name, model_found in models.items():
        own = {contestant: taken for (of, contestant), taken in times.items() if of == name}
        model_found["times_gqa"] = _ratio(own["numba"], times["gqa", "numba"])
        model_found["contestants"] = {
            contestant: {
                "seconds": statistics.median(taken),
                "tokens_per_second": SETTINGS.batch * SETTINGS.length / statistics.median(taken),
                "times_numba": _ratio(taken, own["numba"]),
            }
            for contestant, taken in own.items()
        }
    return {"machine": machine.describe(), "batch": SETTINGS.batch, "length": SETTINGS.length, "models": models}


def _in_turn(
    steps: dict[tuple[str, str], Callable[[], Any]], rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, str], list[float]]:
    """Time every step once per round; each round begins with a different one."""
    for step in steps.values():
        step()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    keys = list(steps)
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        first = turn % len(keys)
        for key in keys[first:] + keys[:first]:
            time.sleep(PAUSE)
            times[key].append(seconds(steps[key]))
    return times


def _ratio(taken: list[float], other: list[float]) -> float:
    return statistics.median(t / o for t, o in zip(taken, other, strict=True))


def _peer(config: model.Config, source: Text) -> tuple[float, Callable[[], Any]]:
    """The difference between our gradients and PyTorch's, and PyTorch's training step."""
    from gta_ref.bench.lm_torch import Model

    peer = Model(config, train.begin(config, SETTINGS, source).state.params, SETTINGS)
    batch = source.batch(np.random.default_rng(0), SETTINGS.batch, SETTINGS.length)
    return gradient_error(config, peer, batch), lambda: peer.step(*batch)


def gradient_error(config: model.Config, peer: Any, batch: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest difference between our gradients and PyTorch's, relative to the largest value of each gradient."""
    params = {name: p.detach().numpy() for name, p in peer.params.items()}
    _, grads = loss_and_gradient(params, *batch, config)  # as a step computes it
    peer.loss(*batch).backward()
    theirs = {name: p.grad.numpy() for name, p in peer.params.items()}
    return max(float(np.abs(grads[n] - g).max() / np.abs(g).max()) for n, g in theirs.items())


def _training(config: model.Config, source: Text, engine: str) -> Callable[[], None]:
    run = train.begin(config, SETTINGS, source)

    def step() -> None:
        run.state, _ = train.take_step(run, source, engine)

    return step
