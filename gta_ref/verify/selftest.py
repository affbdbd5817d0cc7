"""The kit checks itself: it must catch and locate the errors of wrong implementations, and right ones must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.core import attention_backward, attention_forward, engines
from gta_ref.lm import model as lm
from gta_ref.ops import as_dtype
from gta_ref.verify.mutants.mutant import Mutant
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.report import Report
from gta_ref.verify.run import verify
from gta_ref.verify.stepwise.dispatch import Stepwise
from gta_ref.verify.truth import config_of, mask_of, model_of, wide

Arrays = Mapping[str, np.ndarray]

ATTENTION = ("attention", "backward", "decode", "padding", "lse", "deterministic")
GTA = (*ATTENTION, "layer", "gta")


def in_float64(implementation: Stepwise) -> Callable[[Arrays, Mapping[str, Any]], Arrays]:
    """Run a Stepwise in float64 on inputs of any dtype, and round its results once to that dtype."""

    def call(arrays: Arrays, settings: Mapping[str, Any]) -> Arrays:
        dtype = as_dtype(settings["dtype"])
        single = np.promote_types(dtype, np.float32)
        found = implementation(wide(arrays), settings)
        return {name: x.astype(single if name == "lse" else dtype) for name, x in found.items()}

    return call


def by_engine(engine: str) -> Callable[[Arrays, Mapping[str, Any]], Arrays]:
    """The library itself as an implementation that computes attention with `engine`; it has no inner stages."""

    def call(arrays: Arrays, settings: Mapping[str, Any]) -> Arrays:
        mask = mask_of(settings)
        if settings["level"] == "attention":
            q, k, v = arrays["q"], arrays["k"], arrays["v"]
            z, lse, saved = attention_forward(q, k, v, mask=mask, scale=settings.get("scale"), engine=engine)
            d_q, d_k, d_v = attention_backward(arrays["d_z"], saved, dlse=arrays.get("d_lse"))
            return {"z": z, "lse": lse, "d_q": d_q, "d_k": d_k, "d_v": d_v}
        if settings["level"] == "lm":
            config = model_of(settings)
            params = {name: arrays[name] for name in lm.param_shapes(config)}
            logits, _ = lm.forward(params, arrays["ids"], config, engine=engine)
            loss, state = lm.loss_forward(params, arrays["ids"], config, engine=engine)
            grads = lm.loss_backward(state)
            return {"logits": logits, "loss": np.reshape(loss, 1), **{f"d_{name}": g for name, g in grads.items()}}
        module, config = mechanisms.load(settings["mechanism"]), config_of(settings)
        params, x = {name: arrays[name] for name in module.param_shapes(config)}, arrays["x"]
        if not settings.get("chunks"):
            out, saved = module.forward(params, x, config, mask=mask, engine=engine)
            d_x, grads = module.backward(arrays["d_out"], saved)
            return {"out": out, "d_x": d_x, **{f"d_{name}": g for name, g in grads.items()}}
        cache = KVCache(module.structure(config).cached, x.shape[0], x.shape[1], x.dtype, arrays["k_start"])
        outs, start = [], 0
        for n in settings["chunks"]:
            outs.append(module.decode(params, x[:, start : start + n], cache, config, engine=engine))
            start += n
        return {"out": np.concatenate(outs, axis=1), **{f"cache_{n}": np.array(a) for n, a in cache.held().items()}}

    return call


def check_mutant(mutant: Mutant) -> tuple[Report, bool, bool]:
    """Run a mutant over the core suite in float64.

    Returns
    -------
    report : Report
    caught : bool
        Whether the kit found the implementation wrong.
    located : bool
        Whether it also blamed the array that the mutant makes wrong.
    """
    abilities = ATTENTION if mutant.kind == "attention" else GTA
    report = verify(in_float64(mutant.implementation()), "core", "float64", abilities)
    caught = report.exit_status == 1
    return report, caught, caught and report.blame is not None and report.blame[0] in mutant.stage


def right_implementations() -> list[tuple[str, str, Callable[[], Report]]]:
    """Every implementation that must pass: its name, a dtype, and a function that runs it and returns the report."""
    runs: list[tuple[str, str, Callable[[], Report]]] = []
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        runs.append(("stepwise", dtype, partial(verify, in_float64(Stepwise()), "core", dtype, GTA)))
        for engine in engines.MODULES:
            if engine != "cuda" and engines.why_not(engine) is None:
                runs.append((f"engine {engine}", dtype, partial(verify, by_engine(engine), "core", dtype)))
    return runs


def self_test(progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run all wrong and all right implementations.

    Returns
    -------
    found : dict
        ``mutants``: for each wrong implementation, whether it was caught, located and recognised, and the stage and
        cause that were blamed; ``right``: for each right implementation, the number of cases by status; the totals
        ``caught``, ``located``, ``recognised``, ``total`` and ``false_alarms``.
    """
    mutants: dict[str, dict[str, Any]] = {}
    for mutant in MUTANTS:
        if progress is not None:
            progress(mutant.cause)
        report, caught, located = check_mutant(mutant)
        blame = report.blame or (None, None)
        mutants[mutant.name] = {
            "wrong": mutant.cause,
            "caught": caught,
            "located": located,
            "stage": blame[0],
            "cause": blame[1],
            "recognised": blame[1] == mutant.cause,
        }
    right, alarms = {}, 0
    for name, dtype, run in right_implementations():
        if progress is not None:
            progress(f"{name}, {dtype}")
        report = run()
        right[f"{name}, {dtype}"] = report.counts
        alarms += sum(result.status not in ("pass", "skip") for result in report.results)
    totals = {key: sum(m[key] for m in mutants.values()) for key in ("caught", "located", "recognised")}
    return {"total": len(mutants), **totals, "false_alarms": alarms, "mutants": mutants, "right": right}
