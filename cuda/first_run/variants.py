"""Step 5: other tiles and other numbers of splits than those that the engine chooses, on this GPU.

    python -m gta_cuda.first_run.variants

Each variant is compiled by Numba's own path, checked at a small size and timed at a large one. The results say which
constants to change: ``forward_bf16.Tile.of``, ``launch.choose_splits``, the warps of a decode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gta_cuda import launch
from gta_cuda.first_run.cases import Case, check
from gta_cuda.first_run.device import Device
from gta_cuda.first_run.results import attempt
from gta_cuda.forward_bf16 import Tile
from gta_ref.core import Mask
from gta_ref.ops.arrays import as_dtype

STEP = "5"
SMALL, LARGE = Case(1, 5, 1, 1, 300, 300, 64, 128), Case(1, 5, 1, 1, 8192, 8192, 64, 128)
SMALL_DECODE, LARGE_DECODE = Case(1, 5, 1, 1, 1, 4096, 64, 128), Case(1, 5, 1, 1, 1, 131072, 64, 128)
TILES = [Tile.of(64), Tile(64, 64, 2, 2), Tile(64, 128, 1, 2), Tile(32, 128, 1, 2), Tile(128, 32, 2), Tile(128, 64)]
SPLITS = (132, 264, 396, 528)
WARPS = (4, 8)
REPEATS = 20
MOST_MILLISECONDS = 300.0


def milliseconds(work: Callable[[], Any]) -> float:
    """Median time of a call between two events, after a warm-up; slow work runs fewer times."""
    import cupy

    times: list[float] = []
    for turn in range(-3, REPEATS):
        if len(times) >= 3 and sum(times) > MOST_MILLISECONDS:
            break
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if turn >= 0:
            times.append(cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def arrays(case: Case, device: Device, dtype: str = "bfloat16") -> list[Any]:
    """Random q, k and v on the device."""
    rng = np.random.default_rng(0)
    shapes = (case.n_q, case.n_queries, case.d_k), (case.n_k, case.n_keys, case.d_k), (case.n_v, case.n_keys, case.d_v)
    return [device.move(rng.standard_normal((1, *shape)).astype(as_dtype(dtype))) for shape in shapes]


def main() -> None:
    """Check and time every variant."""
    device, scale, mask = Device(), 64**-0.5, Mask()
    for tile in TILES:
        with attempt(STEP, f"forward bfloat16, {'x'.join(map(str, tile))}") as found:
            run = partial(launch.forward_bf16, tile=tile)
            found |= check(SMALL, "bfloat16", run, None, device.move, device.back)
            found["ms"] = milliseconds(partial(run, *arrays(LARGE, device), mask, scale))
    for splits in SPLITS:
        for warps in WARPS:
            with attempt(STEP, f"decode bfloat16, {splits} splits, {warps} warps") as found:
                run = partial(launch.decode, splits=splits, warps=warps)
                found |= check(SMALL_DECODE, "bfloat16", run, None, device.move, device.back)
                found["ms"] = milliseconds(partial(run, *arrays(LARGE_DECODE, device), mask, scale))
                found["GB/s"] = 131072 * (64 + 128) * 2 / found["ms"] / 1e6


if __name__ == "__main__":
    main()
