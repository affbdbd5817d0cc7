"""``gta-ref bench core``: time the engines of the attention core and PyTorch, which take turns in one process.

A contestant is timed only after its result has been compared with float64. With one thread, times are CPU time, in
which other programs on the machine do not count; with more, they are by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from gta_ref.bench.contestants import Arrays, Case, of
from gta_ref.bench.limited import avx2
from gta_ref.bench.peak import Ceilings
from gta_ref.bench.rows import BY_QUERY, at_both_ends, by_definition, zero_elsewhere
from gta_ref.core.cpu import matrix_units
from gta_ref.threads import get_threads
from gta_ref.verify.exchange import to_numpy

GTA = (5, 1, 1)  # n_q, n_k, n_c of GTA-1B; widths 64 and 128
GQA = (20, 5, 5)  # n_q, n_k, n_v of GQA-1B; widths 64 and 64

LENGTHS = (1024, 2048, 4096, 8192)
DECODES = ((1, 32768), (8, 8192), (32, 4096))
# A result may be this many times as far from float64 as that of "reference" in float32, which adds in another order …
TIMES_REFERENCE = 8
# … plus this many roundings of the largest value, because the error of "reference" may happen to be nearly 0
ROUNDINGS = 8
ROUNDS, SLOW_ROUNDS = 11, 3
SLOW = 1.0  # a contestant that needs more seconds than this runs in SLOW_ROUNDS rounds only
PAUSE = 0.05  # seconds between contestants, in which the previous one's threads stop waiting actively for work


def seconds(work: Callable[[], Any]) -> float:
    """Seconds that one call takes: of this thread's CPU time if the engine has one thread, else by the clock."""
    if get_threads() > 1:
        return wall_seconds(work)
    start = time.thread_time()
    work()
    return time.thread_time() - start


def wall_seconds(work: Callable[[], Any]) -> float:
    """Seconds that one call takes by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cases(quick: bool) -> list[Case]:
    """The shapes to measure; a few small ones with `quick`."""
    lengths, decodes = (LENGTHS[:2], DECODES[-1:]) if quick else (LENGTHS, DECODES)
    both = ("forward", "forward+backward")
    found = [Case(f"{kind}, N {n}", kind, 1, *GTA, n, 64, 128) for kind in both for n in lengths]
    found += [Case(f"decode, B {b}, N {n}", "decode", b, *GTA, n, 64, 128) for b, n in decodes]
    gqa = 1024 if quick else 2048
    found += [Case(f"GQA-1B {kind}, N {gqa}", kind, 1, *GQA, gqa, 64, 64) for kind in both]
    found.append(Case("training, B 32, N 128", "forward+backward", 32, 4, 1, 1, 128, 32, 64))
    found += [Case(f"bfloat16 forward, N {n}", "forward", 1, *GTA, n, 64, 128, "bfloat16") for n in lengths[:3]]
    return found


def measure(case: Case, ceilings: Ceilings, against_torch: bool, quick: bool) -> dict[str, Any]:
    """Check and time every contestant in one case.

    Returns
    -------
    result : dict
        name, kind, sizes, dtype, unit (the form of the matrix unit that computes bfloat16, or None);
        ``fma`` (operations per second), ``read`` (bytes per second) and, on a matrix unit, ``products`` (operations per
        second), medians over the rounds;
        and contestants: name → error, wrong and, unless it is wrong, seconds (median), least (the shortest time), rate
        (operations or bytes per second), of_ceiling (rate ÷ ceiling of the same round) and times_numba (time ÷ numba's
        time in the same round), the last two as medians over the rounds; best_of_ceiling (with the shortest time and
        the highest ceiling).

    """
    arrays = case.inputs()
    contestants = of(case, against_torch)
    checks = dict(check(case, arrays, contestants))
    copies = [arrays, *(tuple(x.copy() for x in arrays) for _ in range(case.copies - 1))]
    runs = {
        name: _in_turn([prepare(case, one) for one in copies])
        for name, prepare in contestants.items()
        if not checks[name]["wrong"]
    }
    rounds, slow = (5, 3) if quick else (ROUNDS, SLOW_ROUNDS)
    times: dict[str, list[float]] = {name: [] for name in runs}
    unit = matrix_units.form() if case.dtype == "bfloat16" else None
    limit = "read" if case.kind == "decode" else "products" if unit == "amx" else "fma"
    ceiling: dict[str, list[float]] = {name: [] for name in dict.fromkeys(("fma", "read", limit))}
    for work in runs.values():
        work()  # work that is done only once: buffers, threads, memory pages
    for turn in range(rounds):
        names = [name for name in runs if turn < slow or times[name][0] <= SLOW]
        if not names:
            break
        time.sleep(PAUSE)
        ceiling["fma"].append(ceilings.multiply())
        if limit == "products":
            ceiling[limit].append(ceilings.products())
        reads = []
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            reads.append(ceilings.read())  # empties the caches and wakes the cores before each contestant alike
            times[name].append(seconds(runs[name]) / case.copies)
        ceiling["read"].append(statistics.median(reads))
    work_done = case.cache_bytes if limit == "read" else case.operations
    for name, taken in times.items():
        checks[name] |= {
            "seconds": statistics.median(taken),
            "least": min(taken),
            "rate": work_done / statistics.median(taken),
            "of_ceiling": statistics.median(work_done / t / c for t, c in zip(taken, ceiling[limit], strict=False)),
            "best_of_ceiling": work_done / min(taken) / max(ceiling[limit]),
            "times_numba": statistics.median(t / n for t, n in zip(taken, times["numba"], strict=False)),
        }
    return {
        "name": case.name,
        "kind": case.kind,
        "dtype": case.dtype,
        "unit": unit,
        "sizes": {"B": case.batch, "n_q": case.n_q, "n_k": case.n_k, "n_v": case.n_v, "N": case.length}
        | {"d_k": case.d_k, "d_v": case.d_v},
        **{name: statistics.median(found) for name, found in ceiling.items()},
        "contestants": checks,
    }


def _in_turn(works: list[Callable[[], Any]]) -> Callable[[], None]:
    def all_of_them() -> None:
        for work in works:
            work()

    return all_of_them


def check(case: Case, arrays: Arrays, contestants: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare the results of every contestant with float64.

    Only some query rows at each end of a sequence are compared, so that the float64 map stays small. In the other rows
    dz is 0, so that they add nothing to dk and dv.
    """
    q, k, v, dz = arrays
    rows = at_both_ends(case.queries)
    some = zero_elsewhere(dz, rows)
    truth = by_definition(arrays, rows, np.float64, case.backward)
    single = by_definition(arrays, rows, np.float32, case.backward)
    names = [name for name in truth if name != "lse"]  # PyTorch does not return it
    exact, plain = [truth[name] for name in names], [single[name] for name in names]
    largest = [float(np.abs(x).max()) for x in exact]
    epsilon = 2.0**-7 if case.dtype == "bfloat16" else float(np.finfo(np.float32).eps)
    allowed = [
        TIMES_REFERENCE * float(np.abs(p - x).max()) + ROUNDINGS * epsilon * top
        for p, x, top in zip(plain, exact, largest, strict=True)
    ]
    for name, prepare in contestants.items():
        results = [to_numpy(x).astype(np.float64) for x in prepare(case, (q, k, v, some))()]
        results = [x[:, :, rows] if name in BY_QUERY else x for name, x in zip(names, results, strict=True)]
        errors = [float(np.abs(x - y).max()) for x, y in zip(results, exact, strict=True)]
        wrong = not all(error <= most for error, most in zip(errors, allowed, strict=True))  # NaN is wrong as well
        relative = [error / top for error, top in zip(errors, largest, strict=True)]
        yield name, {"error": max(relative), "wrong": wrong}


def thread_gain(ceilings: Ceilings, rounds: int) -> dict[str, float]:
    """Speed-up of all threads over one thread, for the forward at N 4096 and for multiply–adds; by the clock."""
    from gta_ref import threads

    case = Case("", "forward", 1, *GTA, 4096, 64, 128)
    work = of(case, False)["numba"](case, case.inputs())
    found: dict[str, list[float]] = {"forward": [], "fma": []}
    before = threads.chosen()
    for _ in range(rounds):
        time.sleep(PAUSE)
        many, many_fma = wall_seconds(work), ceilings.multiply()
        time.sleep(PAUSE)
        try:
            threads.set_threads(1)
            one, one_fma = wall_seconds(work), ceilings.multiply()
        finally:
            threads.set_threads(before)
        found["forward"].append(one / many)
        found["fma"].append(many_fma / one_fma)
    return {name: statistics.median(gains) for name, gains in found.items()}


def run(against_torch: bool, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Measure everything.

    Parameters
    ----------
    against_torch : bool
    quick : bool
        Measure few cases and rounds and leave out the long run for memory, only to see that the benchmark runs.
    progress : callable
        Called with the name of the next measurement.

    Returns
    -------
    figures : dict
        machine, cases, avx2 (cases in a process without AVX-512; empty if the machine has none), threads, memory (None
        with `quick`); all of it goes to JSON.
    """
    from threadpoolctl import threadpool_limits

    from gta_ref.bench import machine, memory

    if against_torch:
        import torch

        torch.set_num_threads(get_threads())
    with threadpool_limits(get_threads(), "blas"):
        return _run(against_torch, quick, progress, machine, memory)


def _run(
    against_torch: bool, quick: bool, progress: Callable[[str], None], machine: ModuleType, memory: ModuleType
) -> dict[str, Any]:
    ceilings = Ceilings(seconds)
    found: dict[str, Any] = {"machine": machine.describe(), "cases": []}
    for case in cases(quick):
        progress(case.name)
        found["cases"].append(measure(case, ceilings, against_torch, quick))
    progress("AVX2")
    found["avx2"] = avx2(quick)
    progress("threads")
    found["threads"] = thread_gain(Ceilings(wall_seconds), 3 if quick else 7)
    progress("memory")
    found["memory"] = None if quick else memory.forward_growth(65536)
    return found
