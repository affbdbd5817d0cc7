"""``gta-ref bench gpu``: the engine "cuda" beside PyTorch's attention and beside what the GPU can do, in one process.

Everything is timed by the device's events on the default stream: after a check against float64 on the CPU, after
warm-up, over several copies of the inputs in turn, so that no result profits from what the last call left in the L2
cache. Medians. Written without a GPU at hand and not yet run on one.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gta_ref.bench.gpu_cases import ALLOWED, D_K, D_V, N_Q, Case, cases
from gta_ref.core import Mask, attention_backward, attention_forward, engines
from gta_ref.ops.arrays import as_dtype
from gta_ref.packages import version

WARM_UP, ROUNDS = 3, 20
L2_BYTES = 2**27  # copies of the inputs come to at least this, twice an H100's L2 cache
CHECKED_ROWS = 64


def summary(case: Case, seconds: list[float], ceilings: dict[str, float]) -> dict[str, float]:
    """Median, rate (bytes a second for a decode, operations a second else) and its share of the ceiling."""
    median = statistics.median(seconds)
    decoding = case.kind == "decode"
    rate = (case.cache_bytes if decoding else case.operations) / median
    found = {"seconds": median, "rate": rate}
    if decoding or case.dtype == "bfloat16":  # float32 runs on other units than the product that was measured
        found["of_ceiling"] = rate / ceilings["copy" if decoding else "product"]
    return found


def run(against_torch: bool, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Check and time everything.

    Returns
    -------
    figures : dict
        device, versions, ceilings (copy: bytes a second, product: bfloat16 operations a second), cases: a list of
        dicts with name, error and contestants (name → ``summary``, or ``why_not``). All of it goes to JSON.

    Raises
    ------
    ValueError
        Where no GPU can be used, with the reason.
    RuntimeError
        Where a result is further from float64 than its dtype explains.
    """
    reason = engines.why_not("cuda")
    if reason is not None:
        raise ValueError(f"bench gpu needs a CUDA GPU, and the engine 'cuda' cannot run here: {reason}")
    if against_torch and importlib.util.find_spec("torch") is None:
        raise ValueError("against='torch' needs PyTorch, which is not installed")
    import cupy

    ceilings = measure_ceilings()
    rounds = 5 if quick else ROUNDS
    found: list[dict[str, Any]] = []
    for case in cases(quick):
        progress(case.name)
        copies = inputs(case)
        error = check(case, copies[0])
        contestants: dict[str, Any] = {"cuda": summary(case, time(partial(compute, case), copies, rounds), ceilings)}
        if against_torch:
            from gta_ref.bench import gpu_torch

            for name, prepare in gpu_torch.contestants(case).items():
                try:
                    work, prepared = prepare(copies)
                    contestants[name] = summary(case, time(work, prepared, rounds), ceilings)
                except RuntimeError as refusal:  # a back end that does not take the case
                    contestants[name] = {"why_not": str(refusal).splitlines()[0]}
        found.append({"name": case.name, **case._asdict(), "error": error, "contestants": contestants})
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "device": properties["name"].decode(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "versions": {name: version(name) for name in ("cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "torch")},
        "ceilings": ceilings,
        "cases": found,
    }


def inputs(case: Case) -> list[tuple[Any, ...]]:
    """(q, k, c, dz) on the GPU, so many times that one pass over all of them empties the L2 cache."""
    import cupy

    rng = np.random.default_rng(0)
    shapes = [(case.batch, N_Q, case.queries, D_K), (case.batch, 1, case.length, D_K)]
    shapes += [(case.batch, 1, case.length, D_V), (case.batch, N_Q, case.queries, D_V)]
    host = [rng.standard_normal(shape, dtype=np.float32).astype(as_dtype(case.dtype)) for shape in shapes]
    n = 1 + L2_BYTES // sum(x.nbytes for x in host)
    return [tuple(cupy.asarray(x) for x in host) for _ in range(min(n, 32))]


def compute(case: Case, arrays: tuple[Any, ...]) -> list[Any]:
    """What is timed, by the engine "cuda"."""
    q, k, c, dz = arrays
    backward = case.kind == "forward+backward"
    z, _, saved = attention_forward(q, k, c, engine="cuda", need_saved=backward)
    return [z, *(attention_backward(dz, saved) if backward else ())]


def check(case: Case, arrays: tuple[Any, ...]) -> float:
    """Relative error of z's last rows, and of dq's, against float64; RuntimeError where it is too large."""
    q, k, c, dz = (x.get().astype(np.float64) for x in arrays)
    rows = slice(-min(CHECKED_ROWS, case.queries), None)
    got = [x.get()[:, :, rows].astype(np.float64) for x in compute(case, arrays)[:2]]
    z, _, saved = attention_forward(
        q[:, :, rows], k, c, mask=Mask(), engine="reference"
    )  # the last rows: aligned to the end
    exact = [z, attention_backward(dz[:, :, rows], saved)[0]]
    errors = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, exact, strict=False)]
    if not max(errors) <= ALLOWED[case.dtype]:  # NaN is wrong as well
        raise RuntimeError(f"{case.name}: relative error {max(errors):.1e}; at most {ALLOWED[case.dtype]:.1e} expected")
    return max(errors)


def time(work: Callable[[Any], Any], copies: list[Any], rounds: int) -> list[float]:
    """Seconds of a call, one for every round; a round is a call with each copy of the inputs."""
    import cupy

    found = []
    for turn in range(-WARM_UP, rounds):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for arrays in copies:
            work(arrays)
        stop.record()
        stop.synchronize()
        if turn >= 0:
            found.append(cupy.cuda.get_elapsed_time(start, stop) * 1e-3 / len(copies))
    return found


def measure_ceilings() -> dict[str, float]:
    """Bytes a second of a large copy, read and written; operations a second of a large bfloat16 product."""
    import cupy

    source, target = cupy.zeros(2**28, np.float32), cupy.empty(2**28, np.float32)
    copy = statistics.median(time(lambda pair: cupy.copyto(*pair), [(target, source)], ROUNDS))
    n = 8192
    a = cupy.random.standard_normal((n, n), dtype=np.float32).astype(as_dtype("bfloat16"))  # ones would draw less power
    product = statistics.median(time(lambda x: x @ x, [a], ROUNDS))
    return {"copy": 2 * source.nbytes / copy, "product": 2 * n**3 / product}
