"""The process that runs a student's CUDA kernel in Numba's simulator; see :mod:`gta_ref.exercises.cuda`.

Reads one JSON object from standard input, {"name", "source", "line", "tile", "cases": [{"q", "k", "d", "scale"}]}, and
writes one to standard output: for each case the result and what the threads did (:class:`Watch`), or an error.

Numba's simulator runs each CUDA thread as a Python thread. It is part of numba-cuda, and of Numba itself; what is used
here is the same in both. Global and shared memory are replaced by arrays that record what the threads do.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import math
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from gta_ref.exercises.cuda_memory import GlobalArray, SharedArray, Watch


@contextlib.contextmanager
def watching(watch: Watch, own: str) -> Iterator[None]:
    """Let the simulator's barriers and shared arrays report to `watch`; `own` is the file name of the kernel."""
    from numba.cuda.simulator import kernel, kernelapi

    thread: Any = kernel.BlockThread
    shared: Any = kernelapi.FakeCUDAShared
    sync, array = thread.syncthreads, shared.array
    memories: dict[Any, SharedArray] = {}

    def passed(self: Any) -> None:
        sync(self)
        with watch.lock:
            who = watch.thread()
            watch.barriers[who] = watch.barriers.get(who, 0) + 1

    def make(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> SharedArray:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename != own:
            frame = frame.f_back
        # the call itself, not its line: two arrays on one line are two arrays
        place = watch.thread()[0], frame.f_code, frame.f_lasti
        with watch.lock:
            watch.shared = True
            if place not in memories:
                memories[place] = SharedArray(shape, _numpy_dtype(dtype), watch, frame.f_lineno)
            return memories[place]

    thread.syncthreads, shared.array = passed, make
    try:
        yield
    finally:
        thread.syncthreads, shared.array = sync, array


def _numpy_dtype(dtype: Any) -> np.dtype:
    try:
        return np.dtype(dtype)
    except TypeError:
        return np.dtype(str(dtype))  # one of Numba's types


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run the kernel on every case."""
    import numba
    from numba import cuda, float32, float64, int32

    own, tile = "<kernel>", job["tile"]
    padded = "\n" * (job["line"] - 1) + job["source"]  # so that line numbers agree with the notebook
    linecache.cache[own] = (len(padded), None, padded.splitlines(keepends=True), own)
    names = {
        "cuda": cuda, "numba": numba, "float32": float32, "float64": float64, "int32": int32, "math": math, "np": np,
        "TILE": tile,
    }  # fmt: skip
    results = []
    try:
        exec(compile(padded, own, "exec"), names)
        kernel: Any = names[job["name"]]
        kernel = kernel if hasattr(kernel, "py_func") else cuda.jit(kernel)
        for case in job["cases"]:
            watch = Watch()
            q, k = (
                GlobalArray(name, np.array(case[name], np.float32).reshape(-1, case["d"]), watch) for name in ("q", "k")
            )
            out = GlobalArray("out", np.full((len(q), len(k)), np.nan, np.float32), watch)
            grid = -(-len(k) // tile), -(-len(q) // tile)
            with watching(watch, own):
                kernel[grid, (tile, tile)](q, k, out, np.float32(case["scale"]))
            results.append(_report(watch, out, tile * tile))
    except (Exception, SystemExit) as error:
        return {"error": _sentence(error, own)}
    return {"results": results}


def _report(watch: Watch, out: GlobalArray, threads: int) -> dict[str, Any]:
    """The results as plain data, ready for JSON."""
    return {
        "out": out.values.tolist(), "written": sorted(out.written), "reads": dict(watch.counts),
        "shared": watch.shared, "race": watch.race, "unfilled": watch.unfilled, "uneven": watch.uneven(threads),
    }  # fmt: skip


def _sentence(error: BaseException, own: str) -> str:
    """An error with its thread and the line of the kernel; the simulator puts "tid=[…] ctaid=[…]: " in front."""
    message = str(error).partition("\n")[0]
    found = re.match(r"tid=\[(\d+), (\d+), \d+\] ctaid=\[(\d+), (\d+), \d+\](?:: )?(.*)", message)
    text = f"{type(error).__name__}: {message}"
    if found:
        x, y, block_x, block_y, message = found.groups()
        text = f"{type(error).__name__} in thread ({x}, {y}) of block ({block_x}, {block_y}): {message}"
    if isinstance(error, NameError):
        text += ". The kernel runs in a process of its own, which knows only cuda, float32, math, np and TILE"
    if isinstance(error, TypeError) and "GlobalArray" in message:
        text += ". A kernel computes with single elements; a GPU's threads have no arithmetic of whole rows"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return text + (f"\n  line {frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}" if frames else "")


if __name__ == "__main__":
    printed = sys.stdout
    sys.stdout = sys.stderr  # keeps what a kernel prints out of the answer
    sys.setswitchinterval(2e-4)  # the simulator's threads wait for each other, by default 5 ms at a time
    printed.write(json.dumps(run(json.load(sys.stdin))))
