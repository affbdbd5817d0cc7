"""The process that runs a student's CUDA kernel in Numba's simulator; see :mod:`gta_ref.exercises.cuda`.

Reads one JSON object from standard input, {"name", "source", "line", "tile", "cases": [{"q", "k", "d", "scale"}]}, and
writes one to standard output: for each case the result and what the threads did (:class:`Watch`), or an error.

Numba's simulator runs each CUDA thread as a Python thread. Here, shared memory is replaced by an array that records
which thread touched which element between which barriers. If two threads touch an element between the same two barriers
and at least one of them writes, that is a race, whether or not it showed in the values.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import math
import re
import sys
import threading
import traceback
from typing import Any

import numpy as np


class Watch:
    """What the threads of one launch did."""

    def __init__(self) -> None:
        self.reads, self.writes = 0, 0  # of global memory
        self.barriers: dict[tuple[Any, Any], int] = {}  # passed by each thread
        self.shared = False
        self.race: str | None = None
        self.unfilled: str | None = None

    def thread(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The calling thread: its block and its place in the block."""
        now: Any = threading.current_thread()
        block, place = now.blockIdx, now.threadIdx
        return (block.x, block.y), (place.x, place.y)

    def uneven(self, threads: int) -> str | None:
        """Two threads of one block that passed different numbers of barriers, in words."""
        for block in {b for b, _ in self.barriers}:
            counts = {place: n for (b, place), n in self.barriers.items() if b == block}
            most, least = max(counts.values()), min(counts.values()) if len(counts) == threads else 0
            if most != least:
                return f"in block {block} one thread passes {most} barriers and another {least}"
        return None

    def report(self, out: np.ndarray, threads: int) -> dict[str, Any]:
        """The results as plain data, ready for JSON."""
        return {
            "out": out.tolist(), "reads": self.reads, "writes": self.writes, "shared": self.shared,
            "race": self.race, "unfilled": self.unfilled, "uneven": self.uneven(threads),
        }  # fmt: skip


class SharedArray:
    """Shared memory of one block that records races."""

    def __init__(self, shape: Any, dtype: Any, watch: Watch, line: int) -> None:
        unset = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max  # no kernel may rely on what was there
        self.memory = np.full(shape, unset, dtype)
        self.shape = self.memory.shape
        self.watch, self.line = watch, line
        self.wrote: dict[Any, tuple[Any, int]] = {}
        self.read: dict[Any, dict[Any, int]] = {}
        self.lock = threading.Lock()

    def __getitem__(self, index: Any) -> Any:
        with self.lock:
            self._note_read(index)
            return self.memory[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        with self.lock:
            self._note_write(index)
            self.memory[index] = value

    def _note_read(self, index: Any) -> None:
        thread = self.watch.thread()
        stretch = self.watch.barriers.get(thread, 0)
        writer = self.wrote.get(index)
        if writer is not None and writer[0] != thread and writer[1] == stretch:
            self._race(index, thread, "reads", writer[0], "writes")
        if writer is None and self.watch.unfilled is None:
            self.watch.unfilled = f"element {index} of the shared array in line {self.line}"
        self.read.setdefault(index, {})[thread] = stretch

    def _note_write(self, index: Any) -> None:
        thread = self.watch.thread()
        stretch = self.watch.barriers.get(thread, 0)
        writer = self.wrote.get(index)
        if writer is not None and writer[0] != thread and writer[1] == stretch:
            self._race(index, thread, "writes", writer[0], "writes")
        for other, at in self.read.get(index, {}).items():
            if other != thread and at == stretch:
                self._race(index, thread, "writes", other, "reads")
        self.wrote[index] = thread, stretch

    def _race(self, index: Any, thread: Any, does: str, other: Any, did: str) -> None:
        if self.watch.race is None:
            self.watch.race = (
                f"between two barriers thread {thread[1]} {does} element {index} of the shared array in "
                f"line {self.line}, which thread {other[1]} {did}"
            )


@contextlib.contextmanager
def watching(watch: Watch, own: str) -> Any:
    """Let the simulator report to `watch`; `own` is the file name of the student's source."""
    from numba.cuda.simulator import kernel, kernelapi
    from numba.cuda.simulator.cudadrv import devicearray

    fake: Any = devicearray.FakeCUDAArray
    thread: Any = kernel.BlockThread
    shared: Any = kernelapi.FakeCUDAShared
    get, put, sync, array = fake.__getitem__, fake.__setitem__, thread.syncthreads, shared.array
    arrays: dict[Any, SharedArray] = {}

    def count(self: Any, index: Any) -> Any:
        watch.reads += 1
        return get(self, index)

    def count_write(self: Any, index: Any, value: Any) -> None:
        watch.writes += 1
        put(self, index, value)

    def passed(self: Any) -> None:
        sync(self)
        who = watch.thread()
        watch.barriers[who] = watch.barriers.get(who, 0) + 1

    def make(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> SharedArray:
        watch.shared = True
        line = next(f.lineno for f in reversed(traceback.extract_stack()) if f.filename == own)
        key = watch.thread()[0], line
        if key not in arrays:
            arrays[key] = SharedArray(shape, np.dtype(str(dtype)), watch, line or 0)
        return arrays[key]

    fake.__getitem__, fake.__setitem__, thread.syncthreads, shared.array = count, count_write, passed, make
    try:
        yield
    finally:
        fake.__getitem__, fake.__setitem__, thread.syncthreads, shared.array = get, put, sync, array


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run the kernel on every case."""
    from numba import cuda, float32

    own, tile = "<kernel>", job["tile"]
    padded = "\n" * (job["line"] - 1) + job["source"]  # so that line numbers agree with the notebook
    linecache.cache[own] = (len(padded), None, padded.splitlines(keepends=True), own)
    names = {"cuda": cuda, "float32": float32, "math": math, "np": np, "TILE": tile}
    results = []
    try:
        exec(compile(padded, own, "exec"), names)
        kernel: Any = names[job["name"]]
        kernel = kernel if hasattr(kernel, "py_func") else cuda.jit(kernel)
        for case in job["cases"]:
            q, k = (np.array(case[name], np.float32).reshape(-1, case["d"]) for name in ("q", "k"))
            out = np.full((len(q), len(k)), np.nan, np.float32)
            grid = -(-len(k) // tile), -(-len(q) // tile)
            watch = Watch()
            with watching(watch, own):
                kernel[grid, (tile, tile)](q, k, out, np.float32(case["scale"]))
            results.append(watch.report(out, tile * tile))
    except Exception as error:
        return {"error": _sentence(error, own)}
    return {"results": results}


def _sentence(error: Exception, own: str) -> str:
    """An error with its thread and the line of the kernel; the simulator puts "tid=[…] ctaid=[…]: " in front."""
    message = str(error).partition("\n")[0]
    found = re.match(r"tid=\[(\d+), (\d+), \d+\] ctaid=\[(\d+), (\d+), \d+\](?:: )?(.*)", message)
    text = f"{type(error).__name__}: {message}"
    if found:
        x, y, block_x, block_y, message = found.groups()
        text = f"{type(error).__name__} in thread ({x}, {y}) of block ({block_x}, {block_y}): {message}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return text + (f"\n  line {frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}" if frames else "")


if __name__ == "__main__":
    printed = sys.stdout
    sys.stdout = sys.stderr  # keeps what a kernel prints out of the answer
    printed.write(json.dumps(run(json.load(sys.stdin))))
