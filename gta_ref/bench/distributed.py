"""``mpiexec -n R gta-ref bench distributed``: time the ring, its messages and its memory on this machine.

All ranks run each measurement together, and a time is that of the slowest rank. One rank then computes the whole alone,
with one thread and with R threads, while the others wait; so the ring's speed-up can be compared with that of threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gta_ref import threads
from gta_ref.bench import machine
from gta_ref.bench.contestants import Case, engine
from gta_ref.bench.memory import begin, forward_growth, peak
from gta_ref.core import attention_forward
from gta_ref.costs.model import Model
from gta_ref.distributed.costs import ring_bytes
from gta_ref.distributed.messages import Passing
from gta_ref.distributed.ring import Ring

LENGTHS = (4096, 16384)
MEMORY_LENGTH = 131072
ROUNDS = 5
SMALL, LARGE = 2**3, 2**23  # bytes of the messages that give the latency and the bandwidth
TURNS = 20
IDLE = 0.001  # seconds between two looks, when ranks wait for one that computes alone: MPI's own barrier would spin


def run(comm: Any, quick: bool, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Measure everything; every rank receives the figures.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    quick : bool
        Measure one short sequence, only to see that the benchmark runs.
    progress : callable
        Called with the name of the next measurement.

    Returns
    -------
    found : dict
        machine, ranks, link (latency in seconds, bandwidth in bytes per second), cases, and memory (as :func:`memory`
        returns it; None with `quick`).
    """
    found: dict[str, Any] = {"machine": machine.describe(), "ranks": comm.Get_size()}
    progress("messages")
    found["link"] = link(comm)
    progress("memory")  # first, because memory that a process has freed may still be its own
    found["memory"] = None if quick else memory(comm, MEMORY_LENGTH)
    found["cases"] = []
    for length in (1024,) if quick else LENGTHS:
        for kind in ("forward", "forward+backward"):
            progress(f"{kind}, N {length}")
            found["cases"].append(measure(comm, kind, length, found["link"], 2 if quick else ROUNDS))
    return found


def link(comm: Any) -> dict[str, float]:
    """Latency and bandwidth of messages that all ranks pass on at the same time, as in a ring."""
    taken = {}
    for size in (SMALL, LARGE):
        x, into, times = np.zeros(size, np.uint8), np.zeros(size, np.uint8), []
        for _ in range(TURNS):
            comm.Barrier()
            start = time.perf_counter()
            Passing(comm, [x], [into], tag=9).wait()
            times.append(time.perf_counter() - start)
        taken[size] = max(comm.allgather(statistics.median(times)))
    return {"latency": taken[SMALL], "bandwidth": LARGE / max(taken[LARGE] - taken[SMALL], 1e-9)}


def measure(comm: Any, kind: str, length: int, between: dict[str, float], rounds: int) -> dict[str, Any]:
    """Time GTA-1B's attention core as a ring and alone.

    Returns
    -------
    found : dict
        name; ring, alone and threaded: seconds (median over rounds) of the ring with one thread per rank, of one
        process with one thread, and with as many threads as ranks; one_rank: time of a ring of one rank ÷ that of the
        engine; efficiency: speed-up of the ring ÷ speed-up of the threads; sent and formula: bytes that a rank sends;
        sending: seconds for these by latency and bandwidth; predicted: seconds of the ring by :func:`predicted`;
        error: largest difference from one process.
    """
    from mpi4py import MPI

    case = Case("", kind, 1, 5, 1, 1, length, 64, 128)
    ring, arrays = Ring(comm, length, inner="numba"), case.inputs()
    mine = tuple(ring.cut(x, 2) for x in arrays)
    itself = Ring(MPI.COMM_SELF, length, inner="numba")
    works = {"ring": engine(ring)(case, mine)}
    works |= {name: engine(one)(case, arrays) for name, one in (("alone", "numba"), ("one_rank", itself))}
    works["threaded"] = works["alone"]
    times: dict[str, list[float]] = {name: [] for name in works}
    before = threads.chosen()
    try:
        for turn in range(rounds + 1):  # the first one warms up
            threads.set_threads(1)
            comm.Barrier()
            sent, start = ring.sent, time.perf_counter()
            results = works["ring"]()
            taken = {"ring": max(comm.allgather(time.perf_counter() - start))}
            sent = ring.sent - sent
            whole = [ring.gather(x, 2) for x in results]
            if comm.Get_rank() == 0:
                for name, number in (("alone", 1), ("one_rank", 1), ("threaded", comm.Get_size())):
                    threads.set_threads(number)
                    start = time.perf_counter()
                    exact = works[name]()
                    taken[name] = time.perf_counter() - start
                taken["error"] = max(float(np.abs(x - y).max()) for x, y in zip(whole, exact, strict=True))
            taken = _told(comm, taken)
            if turn:
                for name, found in times.items():
                    found.append(taken[name])
    finally:
        threads.set_threads(before)
    layer, middle = Model.preset("gta-1b").structure, {name: statistics.median(x) for name, x in times.items()}
    formula = ring_bytes(layer, length, comm.Get_size(), itemsize=4)
    if case.backward:
        formula += ring_bytes(layer, length, comm.Get_size(), itemsize=4, backward=True)
    ranks = comm.Get_size()
    messages = (ranks - 1) * (3 if case.backward else 1)
    sending = messages * between["latency"] + formula / between["bandwidth"]
    return {
        "name": f"{kind}, N {length}",
        **middle,
        "one_rank": statistics.median(a / b for a, b in zip(times["one_rank"], times["alone"], strict=True)),
        "efficiency": middle["threaded"] / middle["ring"],
        "sent": sent,
        "formula": formula,
        "sending": sending,
        "predicted": predicted(middle["alone"], sending, ranks),
        "error": taken["error"],
    }


def predicted(alone: float, sending: float, ranks: int) -> float:
    """Seconds of a ring whose ranks share the work of one process equally and send while they compute.

    In all steps but the last, the longer of computing and sending counts, as in
    :func:`gta_ref.distributed.costs.ring_seconds`.
    """
    step = alone / ranks**2
    return step + max((ranks - 1) * step, sending)


def _told(comm: Any, taken: dict[str, float]) -> dict[str, float]:
    """What rank 0 has measured, in all ranks; they sleep until it has done so."""
    if comm.Get_rank() == 0:
        for rank in range(1, comm.Get_size()):
            comm.send(taken, rank, tag=8)
        return taken
    while not comm.iprobe(source=0, tag=8):
        time.sleep(IDLE)
    found: dict[str, float] = comm.recv(source=0, tag=8)
    return found


def memory(comm: Any, length: int) -> dict[str, int]:
    """The most memory that a forward of GTA-1B's core takes, in a rank with its part and in one process with the whole.

    Counted is everything beyond what the process holds just before: the inputs, the results, what arrives from other
    ranks, MPI's own memory for it, and scratch. Python, its modules and compiled kernels are not counted; a call with a
    short sequence has loaded them.

    Returns
    -------
    found : dict
        length in tokens; rank (of the rank that takes most) and alone, in bytes.
    """
    rng = np.random.default_rng(0)

    def call(n: int) -> None:
        ring = Ring(comm, n, inner="numba")
        q, k, v = (
            rng.standard_normal((1, heads, ring.shards.local, width), np.float32)
            for heads, width in ((5, 64), (1, 64), (1, 128))
        )
        attention_forward(q, k, v, engine=ring, need_saved=False)

    call(512 * comm.Get_size())  # allocates what is needed only once
    before = begin()
    call(length)
    grown = max(comm.allgather(peak() - before))
    alone = _told(comm, {"growth": forward_growth(length)["growth"]} if comm.Get_rank() == 0 else {})
    return {"length": length, "rank": grown, "alone": int(alone["growth"])}
