"""``gta-ref bench gpu``: compare the engine "cuda" with PyTorch's attention and with the limits of the GPU.

Times are medians of CUDA events on the default stream, after a check against float64 on the CPU and after a warm-up.
Several copies of the inputs are used in turn, so that no call profits from what the previous one left in the L2 cache.
This benchmark was written without access to a GPU and has not yet run on one.
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
L2_BYTES = 2**27  # fewest bytes of all copies of the inputs together, more than twice the L2 cache of an H100
CHECKED_ROWS = 64


def summary(case: Case, seconds: list[float], ceilings: dict[str, float]) -> dict[str, float]:
    """Median time, rate (bytes per second for a decode, else operations per second) and its share of the ceiling."""
    median = statistics.median(seconds)
    decoding = case.kind == "decode"
    rate = (case.cache_bytes if decoding else case.operations) / median
    found = {"seconds": median, "rate": rate}
    if decoding or case.dtype == "bfloat16":  # float32 runs on other units than the bfloat16 product of the ceiling
        found["of_ceiling"] = rate / ceilings["copy" if decoding else "product"]
    return found


def run(against_torch: bool, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Check and time all cases.

    Returns
    -------
    figures : dict
        device, versions, ceilings (copy: bytes per second, product: bfloat16 operations per second), cases: a list of
        dicts with name, error and contestants (name → ``summary``, or ``why_not``). All of it goes to JSON.

    Raises
    ------
    ValueError
        If no GPU can be used; the message has the reason.
    RuntimeError
        If a result is further from float64 than its dtype explains.
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
                except RuntimeError as refusal:  # this back end does not support the case
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
    """Copies of (q, k, c, dz) on the GPU, enough that using all of them once replaces the content of the L2 cache."""
    import cupy

    rng = np.random.default_rng(0)
    shapes = [(case.batch, N_Q, case.queries, D_K), (case.batch, 1, case.length, D_K)]
    shapes += [(case.batch, 1, case.length, D_V), (case.batch, N_Q, case.queries, D_V)]
    host = [rng.standard_normal(shape, dtype=np.float32).astype(as_dtype(case.dtype)) for shape in shapes]
    n = 1 + L2_BYTES // sum(x.nbytes for x in host)
    return [tuple(cupy.asarray(x) for x in host) for _ in range(min(n, 32))]


def compute(case: Case, arrays: tuple[Any, ...]) -> list[Any]:
    """The computation that is timed, with the engine "cuda"."""
    q, k, c, dz = arrays
    backward = case.kind == "forward+backward"
    z, _, saved = attention_forward(q, k, c, engine="cuda", need_saved=backward)
    return [z, *(attention_backward(dz, saved) if backward else ())]


def check(case: Case, arrays: tuple[Any, ...]) -> float:
    """Relative error of the last rows of z and dq against float64; RuntimeError if it is too large."""
    q, k, c, dz = (x.get().astype(np.float64) for x in arrays)
    rows = slice(-min(CHECKED_ROWS, case.queries), None)
    got = [x.get()[:, :, rows].astype(np.float64) for x in compute(case, arrays)[:2]]
    z, _, saved = attention_forward(
        q[:, :, rows], k, c, mask=Mask(), engine="reference"
    )  # the causal mask is aligned to the end, as it must be for the last rows
    exact = [z, attention_backward(dz[:, :, rows], saved)[0]]
    errors = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, exact, strict=False)]
    if not max(errors) <= ALLOWED[case.dtype]:  # NaN is wrong as well
        raise RuntimeError(f"{case.name}: relative error {max(errors):.1e}; at most {ALLOWED[case.dtype]:.1e} expected")
    return max(errors)


def time(work: Callable[[Any], Any], copies: list[Any], rounds: int) -> list[float]:
    """Seconds per call in every round; a round is one call with each copy of the inputs."""
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
    """The bytes per second of a large copy, reading plus writing, and operations per second of a bfloat16 product."""
    import cupy

    source, target = cupy.zeros(2**28, np.float32), cupy.empty(2**28, np.float32)
    copy = statistics.median(time(lambda pair: cupy.copyto(*pair), [(target, source)], ROUNDS))
    n = 8192
    a = cupy.random.standard_normal((n, n), dtype=np.float32).astype(as_dtype("bfloat16"))  # ones need less power
    product = statistics.median(time(lambda x: x @ x, [a], ROUNDS))
    return {"copy": 2 * source.nbytes / copy, "product": 2 * n**3 / product}
