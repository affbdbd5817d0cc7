"""``gta-ref bench e2e``: time GTA-1B and GQA-1B with random weights in a prefill and in decoding steps.

The models take turns in one process, with as many layers as the memory allows. Every figure is extrapolated to all
layers of the published models: embedding and head count once, and the time of the layers that ran is scaled to the full
number of layers. The parts of a time are those of the round with the median time, so that they add up to it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gta_ref.bench import e2e_model
from gta_ref.bench.core import PAUSE
from gta_ref.bench.e2e_model import Case, Models
from gta_ref.bench.e2e_parts import bare_products, difference, predicted, timed_parts, to_depth
from gta_ref.bench.machine import Ceilings, describe, seconds
from gta_ref.costs.hardware import Hardware
from gta_ref.errors import as_int, as_positive_float
from gta_ref.lm import model
from gta_ref.ops.arrays import Params

LENGTH, CONTEXTS, BATCHES = 2048, (2048, 8192, 32768), (1, 16)
QUICK_LENGTH, QUICK_CONTEXTS, QUICK_BATCHES = 64, (32, 64), (1, 2)
TINY_LAYERS = 8
SHARE = 0.4  # default share of the available memory that is used
ROUNDS = {"prefill": 3, "decode": 7}


def cases(length: int, contexts: Sequence[int], batches: Sequence[int]) -> list[Case]:
    """A prefill of `length` tokens at batch 1, followed by a decoding step for every batch and context."""
    for name, values in (("length", [length]), ("contexts", contexts), ("batches", batches)):
        for value in values:
            as_int(name, value, at_least=1)
    return [Case("prefill", 1, length), *(Case("decode", b, n) for b in batches for n in contexts)]


def run(
    *,
    layers: int | None = None,
    length: int | None = None,
    contexts: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    memory: float | None = None,
    quick: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Check and time everything.

    Parameters
    ----------
    layers : int, optional
        Largest number of layers to run; default as many as the memory allows.
    length : int, optional
        Tokens of the prompt in the prefill.
    contexts, batches : sequences of int, optional
        Tokens in the cache, and numbers of sequences, of the decoding steps.
    memory : float, optional
        Gigabytes for weights and caches; default SHARE of the available memory.
    quick : bool
        Run tiny models, only to see that the benchmark runs.
    progress : callable
        Called with the name of the next measurement.

    Returns
    -------
    figures : dict
        machine, setting, errors (of the check before the timing), calls (seconds for the calls of all layers without
        their work), cases: a list of results of :func:`measure`, or of ``name`` and ``left_out`` for a case that did
        not run. All of it goes to JSON.

    Raises
    ------
    ValueError
        If an argument is out of range, or the memory does not suffice.
    RuntimeError
        If a model computes wrong logits.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before this run adds to it
    available = e2e_model.available_memory()
    limit = int(SHARE * available if memory is None else 1e9 * as_positive_float("memory", memory))
    todo = cases(
        (QUICK_LENGTH if quick else LENGTH) if length is None else length,
        (QUICK_CONTEXTS if quick else CONTEXTS) if contexts is None else contexts,
        (QUICK_BATCHES if quick else BATCHES) if batches is None else batches,
    )
    configs = e2e_model.configs(quick)
    ran = e2e_model.plan(configs, todo, limit, layers)
    progress("random weights")
    models = e2e_model.build(configs, max(ran))
    progress("decoding against a forward in float64")
    errors = {name: e2e_model.check(*one) for name, one in models.items()}
    depths = {name: config.n_layers for name, config in configs.items()}
    progress("calls alone")
    calls = {name: depths[name] * layer for name, layer in calls_alone().items()}
    ceilings = Ceilings()
    found: list[dict[str, Any]] = []
    for case, n_layers in zip(todo, ran, strict=True):
        progress(case.name)
        if n_layers:
            some = {name: e2e_model.take(*one, n_layers) for name, one in models.items()}
            found.append(measure(case, some, depths, ceilings))
        else:
            need = e2e_model.cache_bytes(configs, case)
            found.append({"name": case.name, "left_out": f"one layer's caches need {need / 1e9:.1f} GB"})
    setting = {
        "quick": quick,
        "layers": max(ran),
        "depth": max(depths.values()),
        "memory": limit,
        "available": available,
        "weights": e2e_model.weight_bytes(configs, max(ran)),
        "load": load,
    }
    return {"machine": describe(), "setting": setting, "errors": errors, "calls": calls, "cases": found}


def calls_alone() -> dict[str, float]:
    """Seconds per layer of a decoding step with almost empty arrays, which is the cost of Python and NumPy calls alone.

    In a large model the same calls take longer, because its weights displace the interpreter from the CPU's caches.
    """
    found = {}
    for name, (config, params) in e2e_model.build(e2e_model.configs(quick=True), TINY_LAYERS).items():
        step = prepare(Case("decode", 1, QUICK_CONTEXTS[0]), config, params)
        step()
        found[name] = statistics.median(seconds(step) for _ in range(21)) / config.n_layers
    return found


def measure(case: Case, models: Models, depths: dict[str, int], ceilings: Ceilings) -> dict[str, Any]:
    """Time one case, with the models in turn.

    Parameters
    ----------
    case : Case
    models : dict of str to (Config, parameters)
        The models with the layers that run.
    depths : dict of str to int
        The numbers of layers to which the figures are extrapolated.
    ceilings : Ceilings

    Returns
    -------
    result : dict
        name, stage, batch, length, layers; gemm (operations per second) and read (bytes per second), medians over the
        rounds; ``models``: name → the result of :func:`summary`; ratio (seconds of the last model over those of the
        first: median, least and most of the rounds) and ratio_predicted.
    """
    passes = {name: prepare(case, *one) for name, one in models.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    bare: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    ceiling: dict[str, list[float]] = {"gemm": [], "read": []}
    for name, one in models.items():
        # one layer of a prefill suffices as a warm-up for code, threads and buffers
        warm_up = prepare(case, *e2e_model.take(*one, 1)) if case.stage == "prefill" else passes[name]
        if not np.isfinite(warm_up()).all():
            raise RuntimeError(f"{case.name}: {name} has logits that are not finite")
    for turn in range(ROUNDS[case.stage]):
        ceiling["gemm"].append(ceilings.gemm())
        ceiling["read"].append(ceilings.read())
        for name in list(models)[:: 1 if turn % 2 else -1]:
            config, params = models[name]
            time.sleep(PAUSE)
            with timed_parts(params) as parts:
                taken = seconds(passes[name])
            parts["between"] = taken - sum(parts.values())
            rounds[name].append(to_depth(parts, config.n_layers, depths[name]))
            bare[name].append(bare_products(params, config, case.batch, case.new))
    here = Hardware(
        "here",
        statistics.median(ceiling["gemm"]),
        statistics.median(ceiling["read"]),
        None,
        "float32 product and reading memory, all threads",
    )
    figures = {
        name: summary(case, replace(config, n_layers=depths[name]), rounds[name], bare[name], here)
        for name, (config, _) in models.items()
    }
    first, last = (list(rounds.values())[i] for i in (0, -1))
    ratios = [sum(slow.values()) / sum(fast.values()) for fast, slow in zip(first, last, strict=True)]
    fast, slow = (list(figures.values())[i] for i in (0, -1))
    return {
        "name": case.name,
        "stage": case.stage,
        "batch": case.batch,
        "length": case.length,
        "layers": next(iter(models.values()))[0].n_layers,
        "gemm": here.peak,
        "read": here.bandwidth,
        "models": figures,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "ratio_predicted": sum(slow["predicted"].values()) / sum(fast["predicted"].values()),
    }


def prepare(case: Case, config: model.Config, params: Params) -> Callable[[], np.ndarray]:
    """Return the pass as a function that computes the logits; a decoding step restores the caches afterwards."""
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (case.batch, case.new))
    if case.stage == "prefill":
        return lambda: e2e_model.prefill(params, ids, config)
    caches = e2e_model.filled_caches(config, case)

    def step() -> np.ndarray:
        logits = model.decode(params, ids, caches, config)
        for cache in caches:
            cache.truncate(case.held)
        return logits

    return step


def summary(
    case: Case,
    config: model.Config,
    rounds: list[dict[str, float]],
    bare: list[tuple[float, float]],
    here: Hardware,
) -> dict[str, Any]:
    """Figures of one model in one case, all for config.n_layers layers.

    Returns
    -------
    figures : dict
        seconds (median over the rounds), least, most; ``measured`` and ``predicted``: part → seconds; bare: seconds of
        the matrix products alone; causes: the contributions to the difference between measured and predicted.
    """
    ordered = sorted(rounds, key=lambda parts: sum(parts.values()))
    middle = ordered[len(ordered) // 2]  # the number of rounds is odd
    totals = [sum(parts.values()) for parts in ordered]
    expected = predicted(config, case.batch, case.new, case.held, here)
    layer, head = (statistics.median(taken) for taken in zip(*bare, strict=True))
    alone = config.n_layers * layer + head
    return {
        "seconds": sum(middle.values()),
        "least": totals[0],
        "most": totals[-1],
        "measured": middle,
        "predicted": expected,
        "bare": alone,
        "causes": difference(middle, expected, alone),
    }
