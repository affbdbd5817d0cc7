"""``gta-ref bench gpu``: compare the engine "cuda" with PyTorch's attention and with the limits of the GPU.

Each contestant of a case passes three stages. "check" compares its results with float64 on the CPU, "host" times the
call as a program makes it, and "kernel" times a replay of the same launches without the host. A stage that fails is
recorded with its reason, and the run continues with the next contestant: a GPU may be available for minutes only. For
the same reason, every finding is handed to a callback at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

import numpy as np

from gta_ref.bench import gpu_torch
from gta_ref.bench.gpu_cases import D_K, D_V, N_Q, Case, cases
from gta_ref.bench.gpu_check import Check, poisoned_memory
from gta_ref.bench.gpu_clock import ROUNDS, Work, capture, copy_ceiling, product_ceiling
from gta_ref.core import attention_backward, attention_forward, engines
from gta_ref.ops.arrays import as_dtype
from gta_ref.packages import version

ENGINE = "cuda"
L2_BYTES = 2**27  # fewest bytes of all copies of the inputs together, more than twice the L2 cache of an H100
MOST_COPIES = 128
FEWEST_DECODES = 16  # calls in a row, as the layers of a model make them: the first call after a pause takes longer
PACKAGES = ("cupy", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "numba", "numpy", "torch")

Record = Callable[[dict[str, Any]], None]


def run(
    against_torch: bool,
    quick: bool,
    progress: Callable[[str], None] = lambda name: None,
    *,
    record: Record = lambda finding: None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Check and time all cases, most informative first.

    Parameters
    ----------
    against_torch : bool
        Whether PyTorch takes part.
    quick : bool
        Use few cases and rounds, only to see that the benchmark runs.
    progress : callable
        Called with the name of the next case.
    record : callable
        Called with each finding as soon as it is known: a dict for JSON whose key "what" is "machine", "ceiling",
        "check", "host", "kernel" or "left out". All but the first have a "name", that of a ceiling or of a case; those
        of a case have its fields as well, and its stages have the "contestant".
    seconds : float, optional
        No case begins when this much time has passed since the start. Default: no limit.

    Returns
    -------
    figures : dict
        device, driver, versions; ceilings: copy and product → rate (bytes and bfloat16 operations per second) or
        ``why_not``; cases: a list of dicts with name, the case's fields and contestants: name → stage → what
        ``Check.compare`` or ``summary`` found, or ``why_not``; left_out: names of cases, followed by contestants if
        only these did not take part. All of it goes to JSON.

    Raises
    ------
    ValueError
        If no GPU can be used; the message has the reason.
    """
    reason = engines.why_not(ENGINE)
    if reason is not None:
        raise ValueError(f"bench gpu needs a CUDA GPU, and the engine 'cuda' cannot run here: {reason}")
    if against_torch and importlib.util.find_spec("torch") is None:
        raise ValueError("against='torch' needs PyTorch, which is not installed")
    begun = monotonic()
    machine = describe()
    record({"what": "machine", **machine})
    ceilings = {}
    progress("the limits of the GPU")
    for name, finding in measure_ceilings():
        ceilings[name] = finding
        record({"what": "ceiling", "name": name, **finding})
    found: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    for case, names in plan(against_torch, quick):
        about = {"name": case.name, **case._asdict()}
        if seconds is not None and monotonic() - begun > seconds:
            left_out.append(f"{case.name}: {', '.join(names)}" if case.name in found else case.name)
            record({"what": "left out", **about, "contestants": names})
            continue
        progress(case.name)
        results = found.setdefault(case.name, {"name": case.name, **case._asdict(), "contestants": {}})["contestants"]
        for name, stage, finding in compete(case, names, ceilings, 5 if quick else ROUNDS):
            results.setdefault(name, {})[stage] = finding
            record({"what": stage, **about, "contestant": name, **finding})
    return {**machine, "ceilings": ceilings, "cases": list(found.values()), "left_out": left_out}


def plan(against_torch: bool, quick: bool) -> list[tuple[Case, list[str]]]:
    """The cases in their order, each with the names of its contestants.

    PyTorch's flex attention comes last, and in the first case of each kind only, because it is compiled for every
    shape.
    """
    every = cases(quick)
    if not against_torch:
        return [(case, [ENGINE]) for case in every]
    found = [(case, [ENGINE, *gpu_torch.sdpa(case)]) for case in every]
    kinds = [case.kind for case in every]
    return found + [(every[kinds.index(kind)], [gpu_torch.FLEX]) for kind in dict.fromkeys(kinds)]


def compete(
    case: Case, names: list[str], ceilings: dict[str, dict[str, Any]], rounds: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the contestant, the stage and the finding for each stage of each contestant."""
    try:
        copies = inputs(case)
        check = Check(case, copies[0])
    except Exception as failure:  # without inputs there is no contest
        for name in names:
            yield name, "check", why_not(failure)
        return
    for name in names:
        for stage, finding in stages(name, case, copies, check, ceilings, rounds):
            yield name, stage, finding


def stages(
    name: str,
    case: Case,
    copies: list[tuple[Any, ...]],
    check: Check,
    ceilings: dict[str, dict[str, Any]],
    rounds: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each stage of one contestant and its finding; a stage that fails is the last.

    Wrong results are no failure in this sense: they are timed, too.
    """
    stage = "check"
    try:
        work = prepare(name, case, [check.inputs, *copies])
        with poisoned_memory():
            finding = check.compare(work.first())
        yield stage, finding
        work = work._replace(copies=work.copies[1:])
        stage = "host"
        yield stage, summary(case, work.with_host(rounds), ceilings)
        stage = "kernel"
        yield stage, summary(case, work.kernel_only(rounds), ceilings)
    except Exception as failure:  # whatever the contestant's library raises, but no interrupt by the user
        yield stage, why_not(failure)


def why_not(failure: Exception) -> dict[str, Any]:
    """The finding of a stage that failed: the type and the first line of the exception."""
    lines = str(failure).strip().splitlines()
    return {"why_not": ": ".join([type(failure).__name__, *lines[:1]])}


def prepare(name: str, case: Case, copies: list[tuple[Any, ...]]) -> Work:
    """The work of a contestant for copies of (q, k, c, dz) on the GPU."""
    if name == ENGINE:
        return Work(partial(compute, case), copies, capture)
    return gpu_torch.prepare(name, case, copies)


def compute(case: Case, arrays: tuple[Any, ...]) -> dict[str, Any]:
    """The computation that is timed, with the engine "cuda"; results by name."""
    q, k, c, dz = arrays
    z, lse, saved = attention_forward(q, k, c, engine=ENGINE, need_saved=case.backward)
    if not case.backward:
        return {"z": z, "lse": lse}
    return {"z": z, "lse": lse, **dict(zip(("dq", "dk", "dv"), attention_backward(dz, saved), strict=True))}


def inputs(case: Case) -> list[tuple[Any, ...]]:
    """Copies of (q, k, c, dz) on the GPU, enough that using all of them once replaces the content of the L2 cache."""
    import cupy

    rng = np.random.default_rng(0)
    shapes = [(case.batch, N_Q, case.queries, D_K), (case.batch, 1, case.length, D_K)]
    shapes += [(case.batch, 1, case.length, D_V), (case.batch, N_Q, case.queries, D_V)]
    host = [rng.standard_normal(shape, dtype=np.float32).astype(as_dtype(case.dtype)) for shape in shapes]
    read = sum(x.nbytes for x in host[: 4 if case.backward else 3])
    first = tuple(cupy.asarray(x) for x in host)
    count = min(L2_BYTES // read + 1, MOST_COPIES)
    if case.kind == "decode":
        count = max(count, FEWEST_DECODES)
    return [first] + [tuple(x.copy() for x in first) for _ in range(count - 1)]


def measure_ceilings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the finding for each limit of the GPU: its rate, or ``why_not``."""
    for name, measure in (("copy", copy_ceiling), ("product", product_ceiling)):
        try:
            yield name, {"rate": measure()}
        except Exception as failure:  # a library is missing; the cases run without it
            yield name, why_not(failure)


def summary(case: Case, seconds: list[float], ceilings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Median time, rate (bytes per second for a decode, else operations per second) and its share of the ceiling.

    The share is left out if the ceiling is not known. float32 has none, except in a decode: it runs on other units than
    the bfloat16 product of the ceiling.
    """
    median = statistics.median(seconds)
    decoding = case.kind == "decode"
    rate = (case.cache_bytes if decoding else case.operations) / median
    found = {"seconds": median, "rate": rate}
    ceiling = ceilings.get("copy" if decoding else "product", {}).get("rate")
    if ceiling is not None and (decoding or case.dtype == "bfloat16"):
        found["of_ceiling"] = rate / ceiling
    return found


def faults(figures: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the engine in the figures of ``run``, one line each; what fails in PyTorch is no fault."""
    for case in figures["cases"]:
        for stage, finding in case["contestants"].get(ENGINE, {}).items():
            if stage != "kernel" and "why_not" in finding:  # without a graph there is still the time of the call
                yield f"{case['name']}: {finding['why_not']}"
            for name, error in finding.get("errors", {}).items():
                if finding["not_finite"][name]:
                    yield f"{case['name']}: {name} has {finding['not_finite'][name]:,} elements that are not finite"
                elif error > finding["allowed"][name]:
                    yield f"{case['name']}: {name} has the error {error:.1e}; at most {finding['allowed'][name]:.1e}"


def describe() -> dict[str, Any]:
    """The name of the GPU, and the versions of its driver and of the packages that take part."""
    import cupy

    return {
        "device": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "versions": {name: version(name) for name in PACKAGES},
    }


@contextmanager
def json_lines(path: str | os.PathLike[str] | None) -> Iterator[Record]:
    """Yield a function that appends a finding to a file as one line of JSON, and flushes it; None writes nothing.

    What has been recorded is in the file even if the process is killed later.
    """
    if path is None:
        yield lambda finding: None
        return
    with open(path, "a", encoding="utf-8") as file:
        yield lambda finding: print(json.dumps(finding), file=file, flush=True)
