"""Measure one implementation: the kit's cases in each dtype, then the probes. ``python -m docs.conformance.measure``.

The implementation runs in processes of their own, so that a crash is the result of one case. This process ends after a
time and has a limit of memory; :mod:`docs.conformance.run` starts it.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from docs.conformance import probes
from docs.conformance.table import Implementation, implementations
from gta_ref.core.mask import dense
from gta_ref.files import atomic_path
from gta_ref.verify import vectors, verify
from gta_ref.verify.abilities import features
from gta_ref.verify.attempt import Job
from gta_ref.verify.candidate import load
from gta_ref.verify.case_result import CaseResult
from gta_ref.verify.isolate import Worker
from gta_ref.verify.run import judge
from gta_ref.verify.vector import Vector

SECONDS = 60.0  # that one case may take
MEMORY = 10 << 30  # bytes of data that each process may have
CORNERS = ("blind", "poison", "empty")  # features whose conventions differ
SHOWN = tuple(f"attention/{name}" for name in ("no-token", "no-key", "decode-parts", "mha-through-lse", "huge-logits"))
SAID = {"blind": "a row sees nothing", "poison": "NaN in an unused slot", "empty": "no query or no key"}


def measure(one: Implementation) -> dict[str, Any]:
    """All that the page says about an implementation, as plain JSON."""
    began = time.perf_counter()
    impl = load(one.path)
    arrays = one.arrays or impl.arrays
    able = frozenset(one.capabilities or impl.capabilities) - set(one.without)
    report = verify(
        one.path, one.suite, one.dtypes, able, arrays, progress=_progress, repeat=1, isolate=True, timeout=SECONDS
    )
    wrong = [result for result in report.results if result.status not in ("pass", "skip")]
    with Worker(one.path, SECONDS) as worker:
        call = worker.run
        failed = _grouped([{**_failed(result), **_explained(one, result, call, arrays, able)} for result in wrong])
        probed = probes.layer(call, arrays) if one.suite == "layer" else probes.core(call, one, arrays, able)
    if hasattr(impl, "heads"):
        os.environ[probes.OBJECT] = one.path
        with Worker("docs.conformance.raw:bare", SECONDS) as worker:
            probed.update(probes.bare(worker.run, arrays))
    return {
        **one.shown(),
        "packages": {name: version(name) for name in one.packages},
        "counts": report.counts,
        "lse": "lse" in able,
        "backward": "backward" in able,
        "corners": {r.case: r.status for r in report.results if r.dtype == one.dtypes[0] and r.case in SHOWN},
        "by_dtype": {dtype: _counts(report.results, dtype) for dtype in one.dtypes},
        "summary": report.summary,
        "skipped": _skipped(report.results),
        "failed": failed,
        "probes": probed,
        "quality": {dtype: _quality(report.results, dtype) for dtype in one.dtypes},
        "seconds": round(time.perf_counter() - began, 1),
    }


def _progress(text: str) -> None:
    print(text, flush=True)  # the runner shows the last line


def _counts(results: Sequence[CaseResult], dtype: str) -> dict[str, int]:
    statuses = [result.status for result in results if result.dtype == dtype]
    return {status: statuses.count(status) for status in ("pass", "fail", "error", "missing", "skip")}


def _failed(result: CaseResult) -> dict[str, Any]:
    found = {key: getattr(result, key) for key in ("case", "dtype", "status", "cause")}
    return {**found, "text": _plain(result.text)}


def _grouped(failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for all dtypes in which a case fails for the same reason, with the text of the first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in failed:
        dtype = entry.pop("dtype")
        same = found.setdefault((entry["case"], entry["kind"], entry["why"]), {**entry, "dtypes": []})
        same["dtypes"].append(dtype)
    return list(found.values())


def _plain(text: str) -> str:
    """The text without the paths of this machine, and not longer than a table's cell can be."""
    for path, short in ((sys.prefix, "…"), (str(Path.cwd()), "…"), (str(Path.home()), "~")):
        text = text.replace(path, short)
    return " ".join(text.split())[:300]


def _explained(one: Implementation, result: CaseResult, call: Any, arrays: str, able: frozenset[str]) -> dict[str, Any]:
    """Why a case failed: what the table knows, or a corner case without which it passes."""
    for known in one.known:
        if known.holds(result.case, result.dtype, result.text):
            return {"kind": known.kind, "why": known.text, "finding": known.finding}
    vector = vectors.make(result.case, result.dtype)
    special = [feature for feature in features(vector.case) if feature in CORNERS]
    if not special or one.suite == "layer":
        return {"kind": "unexplained", "why": ""}
    why = ", ".join(SAID[feature] for feature in special)
    if "empty" in special:
        return {"kind": "limitation", "why": why}
    if _forgiven(vector, call, arrays, able):
        return {"kind": "convention", "why": why}
    return {"kind": "unexplained", "why": f"{why}; it fails without that as well"}


def _forgiven(vector: Vector, call: Any, arrays: str, able: frozenset[str]) -> bool:
    """Whether the case passes if rows that see nothing are left out, and unused slots hold 0."""
    sizes, given = vector.settings["sizes"], dict(vector.inputs)
    bounds = [given[name] for name in ("q_start", "k_start", "k_stop")]
    causal = vector.settings["mask"].get("causal", True)
    seen = dense(causal, bounds[0], bounds[1], bounds[2], sizes["N_q"], sizes["N_k"])
    blind: np.ndarray = np.logical_not(seen.max(-1, initial=False))[:, None]  # (B, 1, N_q)
    for name in ("k", "v"):
        given[name] = np.where(np.isnan(given[name]), np.zeros_like(given[name]), given[name])
    given["d_z"] = np.where(blind[..., None], np.zeros_like(given["d_z"]), given["d_z"])
    backward = "backward" in able
    names = [name for name in vector.expected if backward or name not in vector.gradients]
    outcome = call(Job(given, vector.settings, arrays, 1, False, backward, frozenset(names)))
    if outcome.status is not None:
        return False
    found = dict(outcome.runs[0])
    found["z"] = np.where(blind[..., None], np.zeros_like(found["z"]), found["z"])
    if "lse" in found:
        found["lse"] = np.where(blind, np.full_like(found["lse"], -np.inf), found["lse"])
    return judge(vector, found, [name for name in vector.required if name in names]).status == "pass"


def _skipped(results: Sequence[CaseResult]) -> dict[str, int]:
    found: dict[str, int] = {}
    for result in results:
        if result.status == "skip":
            found[result.text] = found.get(result.text, 0) + 1
    return found


def _quality(results: Sequence[CaseResult], dtype: str) -> dict[str, list[float]]:
    """Median and largest error of outputs and of gradients, in units of the error of float32 inside."""
    found: dict[str, list[float]] = {"outputs": [], "gradients": []}
    for result in results:
        if result.status == "pass" and result.dtype == dtype:
            for name, ratio in result.quality.items():
                if isfinite(ratio) and (name in ("z", "out") or name.startswith("d_")):
                    found["gradients" if name.startswith("d_") else "outputs"].append(ratio)
    return {name: [round(statistics.median(x), 2), round(max(x), 2)] for name, x in found.items() if x}


def main(name: str, out: str) -> None:
    """Measure the implementation of this name and write the JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.filterwarnings("ignore")
    (one,) = [one for one in implementations() if one.name == name]
    found = measure(one)
    with atomic_path(out) as path:
        path.write_text(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
