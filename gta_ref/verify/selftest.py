"""The kit checks itself: it must catch and locate the errors of wrong implementations, and right ones must pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

import gta_ref
from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.core import attention_backward, attention_forward, engines
from gta_ref.lm import model as lm
from gta_ref.ops import as_dtype
from gta_ref.verify.cases import DTYPES, suite
from gta_ref.verify.diagnose import Blame, can_run, causes, changes
from gta_ref.verify.mutants.mutant import Mutant
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.report import Report
from gta_ref.verify.right import RIGHT
from gta_ref.verify.run import run_case, verify
from gta_ref.verify.stepwise.dispatch import Stepwise, family
from gta_ref.verify.truth import config_of, mask_of, model_of, wide
from gta_ref.verify.vector import Vector, make

Arrays = Mapping[str, np.ndarray]

ATTENTION = ("attention", "backward", "decode", "padding", "lse", "lse-gradient", "deterministic")
GTA = (*ATTENTION, "layer", "gta")
MOST_CASES, FEW_CASES = 12, 6  # for each wrong implementation
SMALL_MAP = 100_000  # numbers in the map of a case
# the families of cases that test a kind of wrong implementations; the second ones only if the first are all right
FAMILIES = {
    "attention": (("attention",),),
    "layer": (("gta",), ("mha", "gqa", "gva", "gha", "mla")),
    "decode": (("gta",), ("mha", "gqa", "gva", "gha", "mla")),
    "headwise": (("mha", "gqa", "gva", "gha"),),
    "mla": (("mla",),),
    "lm": (("lm",),),
}
# the examples of docs/examples: library, what they can do, and cases; JAX takes long to start each
EXAMPLES = (
    ("torch", ("attention", "layer", "gta", "backward", "decode", "padding"), ("attention/*-padded", "layer/gta-*")),
    ("jax", ("attention", "layer", "gta", "backward", "padding"), ("attention/left-padded", "layer/gta-released")),
)


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
            ids, start, stop = arrays["ids"], 0, 0
            if settings.get("chunks"):
                caches = lm.new_caches(config, ids.shape[0], ids.shape[1], params["embed"].dtype, arrays.get("k_start"))
                parts = []
                for n in settings["chunks"]:
                    start, stop = stop, stop + n
                    parts.append(lm.decode(params, ids[:, start:stop], caches, config, engine=engine))
                return {"logits": np.concatenate(parts, axis=1)}
            logits, _ = lm.forward(params, ids, config, mask=mask, engine=engine)
            loss, state = lm.loss_forward(params, ids, config, targets=arrays.get("targets"), mask=mask, engine=engine)
            grads = lm.loss_backward(state)
            return {"logits": logits, "loss": np.reshape(loss, 1), **{f"d_{name}": g for name, g in grads.items()}}
        module, config = mechanisms.load(settings["mechanism"]), config_of(settings)
        params, x = {name: arrays[name] for name in module.param_shapes(config)}, arrays["x"]
        way = {"absorb": settings["absorb"]} if "absorb" in settings else {}
        if not settings.get("chunks"):
            positions = arrays["positions"]
            out, saved = module.forward(params, x, config, positions=positions, mask=mask, engine=engine, **way)
            d_x, grads = module.backward(arrays["d_out"], saved)
            return {"out": out, "d_x": d_x, **{f"d_{name}": g for name, g in grads.items()}}
        cache = KVCache(module.structure(config).cached, x.shape[0], x.shape[1], x.dtype, arrays["k_start"])
        outs, start = [], 0
        for n in settings["chunks"]:
            outs.append(module.decode(params, x[:, start : start + n], cache, config, engine=engine, **way))
            start += n
        return {"out": np.concatenate(outs, axis=1), **{f"cache_{n}": np.array(a) for n, a in cache.held().items()}}

    return call


@dataclass(frozen=True)
class Verdict:
    """What the kit says about a wrong implementation.

    Attributes
    ----------
    report : Report
    caught : bool
        Whether the kit found the implementation wrong.
    located : bool
        Whether it also blamed the array that the mutant makes wrong.
    recognised : bool
        Whether it named the mutant's cause, and no other.
    misled : bool
        Whether it named others alone.
    """

    report: Report
    caught: bool
    located: bool
    recognised: bool
    misled: bool


def check_mutant(mutant: Mutant) -> Verdict:
    """Run a mutant over its cases.

    These are the cases of its kind in which its numbers differ from the right ones, at most ``MOST_CASES`` of them: it
    would pass the others.
    """
    results = [run_case(in_float64(mutant.implementation()), vector, steady=False) for vector in affected(mutant)]
    report = Report(results)
    caught, blame = report.exit_status == 1, report.blame
    located = blame is not None and blame.stage in mutant.stage
    named = causes([r for r in results if r.status == "fail"])
    misled = bool(named) and mutant.cause not in named
    return Verdict(report, caught, caught and located, named == [mutant.cause], misled)


def affected(mutant: Mutant) -> list[Vector]:
    """The cases for a mutant, of its suite and kind, in which it computes wrong numbers.

    If they are many, some of every sort; of another suite than "core", the first few that are not large.
    """
    found: list[Vector] = []
    for families in FAMILIES[mutant.kind.removesuffix("-decode")]:
        for case in suite(mutant.suite, mutant.dtype):
            settings = {"level": case.level, **case.settings}
            if family(settings) not in families or not can_run(mutant, settings):
                continue
            if mutant.suite != "core" and _map_size(settings) > SMALL_MAP:
                continue
            vector = make(case.name, mutant.dtype)
            if changes(mutant, vector):
                found.append(vector)
            if mutant.suite != "core" and len(found) == FEW_CASES:
                break
        if found:
            break
    step = max(1.0, len(found) / MOST_CASES)
    return [found[int(i * step)] for i in range(min(len(found), MOST_CASES))]


def _map_size(settings: Mapping[str, Any]) -> int:
    return math.prod(settings["sizes"][name] for name in ("B", "n_q", "N_q", "N_k"))


def right_implementations() -> list[tuple[str, str, Callable[[], Report]]]:
    """Every implementation that must pass: its name, a dtype, and a function that runs it and returns the report."""
    runs: list[tuple[str, str, Callable[[], Report]]] = []

    def add(
        name: str, dtype: str, implementation: Any, suite: str | None, able: Collection[str] | None, **more: Any
    ) -> None:
        run = partial(verify, implementation, suite, dtype, able, repeat=1, **more)
        runs.append((name, dtype, run))

    unused = Stepwise({"clean": lambda self, x, k_start, k_stop: x})
    for dtype in DTYPES:
        add("stepwise", dtype, in_float64(Stepwise()), "core", None)
        for engine in engines.MODULES:
            if engine != "cuda" and engines.why_not(engine) is None:
                add(f"engine {engine}", dtype, by_engine(engine), "core", None)
        for name, (implementation, dtypes) in RIGHT.items():
            if dtype in dtypes:
                add(name, dtype, implementation, "attention", ATTENTION)
        add("layers that show the scores of unused slots", dtype, in_float64(unused), "layer", None)
        add("loss without axes", dtype, loss_without_axes, "lm", None)
    for library, able, cases in EXAMPLES:
        example = load_example(library)
        if example is not None:
            add(f"example for {library}", "float32", example, None, able, arrays=library, cases=cases)
    return runs


def loss_without_axes(arrays: Arrays, settings: Mapping[str, Any]) -> Arrays:
    """The reference, whose loss is a number."""
    found = by_engine("reference")(arrays, settings)
    return {name: x.reshape(()) if name == "loss" else x for name, x in found.items()}


def load_example(library: str) -> Any:
    """The implementation of docs/examples in this library; None if it or the library is not there."""
    path = Path(gta_ref.__file__).parents[1] / "docs" / "examples" / f"gta_{library}.py"
    if not path.is_file() or find_spec(library) is None:
        return None
    spec = spec_from_file_location(f"gta_ref_example_{library}", path)
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.gta


def self_test(progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run all wrong and all right implementations.

    Returns
    -------
    found : dict
        ``mutants``: for each wrong implementation, its cause in ``wrong``, whether it was ``caught``, ``located``,
        ``recognised`` and ``misled`` (another cause was named), the ``stage`` and ``cause`` that were blamed, and the
        failing cases that the cause ``explains``, ``of`` how many; ``right``: for each right implementation, the number
        of cases by status; ``alarms``: each case in which a right implementation did not pass; the totals ``total``,
        ``caught``, ``located``, ``recognised``, ``false_causes``, ``right_total`` and ``false_alarms``.
    """
    mutants: dict[str, dict[str, Any]] = {}
    for number, mutant in enumerate(MUTANTS, start=1):
        if progress is not None:
            progress(f"{number} of {len(MUTANTS)} {mutant.cause}")
        verdict = check_mutant(mutant)
        blame = verdict.report.blame or Blame("", None, 0, 0)
        mutants[mutant.name] = {
            "wrong": mutant.cause,
            **{key: getattr(verdict, key) for key in ("caught", "located", "recognised", "misled")},
            **blame._asdict(),
        }
    right, alarms = {}, []
    runs = right_implementations()
    for number, (name, dtype, run) in enumerate(runs, start=1):
        if progress is not None:
            progress(f"{number} of {len(runs)} {name}, {dtype}")
        report = run()
        right[f"{name}, {dtype}"] = report.counts
        bad = [r for r in report.results if r.status not in ("pass", "skip")]
        alarms += [f"{name}, {dtype}: {r.case}: {r.text}" for r in bad]
    return {
        "total": len(mutants),
        **{key: sum(m[key] for m in mutants.values()) for key in ("caught", "located", "recognised")},
        "false_causes": sum(m["misled"] for m in mutants.values()),
        "right_total": len({name for name, _, _ in runs}),
        "false_alarms": len(alarms),
        "mutants": mutants,
        "right": right,
        "alarms": alarms,
    }
