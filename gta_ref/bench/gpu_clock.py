"""Seconds per call on a GPU: as a program would call it, and of the kernels alone, as a CUDA graph.

A graph is a recording of launches that the GPU replays without the host. Times are taken by CUDA events, in rounds. A
round is one call with each of several copies of the inputs, so that no call profits from what the previous one left in
the L2 cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np

from gta_ref.ops.arrays import as_dtype

WARM_UP, ROUNDS, FEWEST_ROUNDS = 3, 20, 3
MOST_SECONDS = 1.0  # after FEWEST_ROUNDS, no round begins if those before it took longer than this together
PRODUCT = 8192  # rows and columns of the matrices whose product is a ceiling
COPIED = 2**28  # float32 elements of the copy that is a ceiling

Round = Callable[[], Any]


class Work(NamedTuple):
    """What a contestant computes in one case.

    Attributes
    ----------
    call : callable
        Turns one of the `copies` into results by name: z, and lse, dq, dk and dv as far as there are any.
    copies : list
        Inputs in the contestant's own form.
    capture : callable
        Records a round as a CUDA graph and returns a function that launches it.
    setting : callable
        Returns a context manager that is entered once per round.
    """

    call: Callable[[Any], dict[str, Any]]
    copies: list[Any]
    capture: Callable[[Round], Round]
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext

    def first(self) -> dict[str, Any]:
        """The results for the first copy."""
        with self.setting():
            return self.call(self.copies[0])

    def round(self) -> None:
        """One call with each copy."""
        with self.setting():
            for arrays in self.copies:
                self.call(arrays)

    def with_host(self, rounds: int) -> list[float]:
        """Seconds per call in every round, including the time in which the GPU waits for the host."""
        return time(self.round, len(self.copies), rounds)

    def kernel_only(self, rounds: int) -> list[float]:
        """Seconds per call in every round, replayed without the host. Raises what the capture raises."""
        return time(self.capture(self.round), len(self.copies), rounds)


def time(work: Round, calls: int, rounds: int) -> list[float]:
    """Seconds per call in every round, after a warm-up; slow work runs in fewer rounds."""
    import cupy

    found: list[float] = []
    for turn in range(-WARM_UP, rounds):
        if len(found) >= FEWEST_ROUNDS and sum(found) * calls > MOST_SECONDS:
            break
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if turn >= 0:
            found.append(cupy.cuda.get_elapsed_time(start, stop) * 1e-3 / calls)
    return found


def capture(work: Round) -> Round:
    """Record launches on CuPy's current stream as a CUDA graph; the function returned launches it.

    The work runs once before it is recorded, on the same stream: kernels are compiled and loaded then, masks are copied
    to the GPU, and CuPy's memory pool has blocks for this stream, which no other stream uses.
    """
    import cupy

    cupy.cuda.Stream.null.synchronize()  # the stream below does not wait for the inputs
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        work()
        stream.synchronize()
        stream.begin_capture()
        try:
            work()
        except Exception:
            with suppress(Exception):  # a capture that failed must end as well, and raises the same failure once more
                stream.end_capture()
            raise
        graph = stream.end_capture()
    launch: Round = graph.launch
    return launch


def copy_ceiling() -> float:
    """Bytes per second of a large copy, reading plus writing."""
    import cupy

    source = _random(COPIED)
    target = cupy.empty_like(source)
    seconds = statistics.median(time(lambda: cupy.copyto(target, source), 1, ROUNDS))
    return float(2 * source.nbytes / seconds)


def product_ceiling() -> float:
    """Operations per second of a large product of bfloat16 matrices."""
    a = _random(PRODUCT**2).reshape(PRODUCT, PRODUCT).astype(as_dtype("bfloat16"))
    return float(2 * PRODUCT**3 / statistics.median(time(lambda: a @ a, 1, ROUNDS)))


def _random(n: int) -> Any:
    """Random float32 on the GPU; to move or multiply them takes more power than zeros, and so may lower the clock.

    They are drawn on the host and repeat after 2²² numbers.
    """
    import cupy

    block = cupy.asarray(np.random.default_rng(0).standard_normal(min(n, 2**22), dtype=np.float32))
    return cupy.tile(block, n // block.size)
