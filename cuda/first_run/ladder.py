"""Step 5: the ladders of forward, decode and backward, each step checked at a small size and timed at a large one.

    python -m gta_cuda.first_run.ladder

Each step is compiled by Numba's own path, unless the pack holds it. The times are those of the kernels alone, at
GTA-1B's heads and widths; beside them is what ``predict`` counted before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gta_cuda import ladder, predict
from gta_cuda.first_run.cases import Case, check
from gta_cuda.first_run.device import Device
from gta_cuda.first_run.results import attempt
from gta_cuda.first_run.variants import LARGE, LARGE_DECODE, SMALL, SMALL_DECODE, STEP, arrays, milliseconds
from gta_ref.core import Mask

SCALE = 64**-0.5


def main() -> None:
    """Check and time every step of the ladders."""
    device = Device()
    for name, function in ladder.steps().items():
        with attempt(STEP, f"ladder, {name}", dtype=ladder.dtype_of(name)) as found:
            found["ms"] = measure(name, function, SMALL, LARGE, found, device)
            found["TFLOP/s"] = predict.operations(LARGE.n_queries) / found["ms"] / 1e9
            found["predicted ms"] = 1e3 * predict.forward_seconds(predict.FORWARD[name][1], LARGE.n_queries)
    for name, function in ladder.decode_steps().items():
        with attempt(STEP, f"ladder, {name}", dtype=ladder.dtype_of(name)) as found:
            found["ms"] = measure(name, function, SMALL_DECODE, LARGE_DECODE, found, device)
            found["predicted ms"] = 1e3 * predict.decode_seconds(predict.DECODE[name][1])
    for name, function in ladder.backward_steps().items():
        with attempt(STEP, f"ladder, {name}", dtype=ladder.dtype_of(name)) as found:
            found["ms"] = measure_backward(name, function, found, device)
            found["predicted ms"] = 1e3 * predict.backward_seconds(predict.BACKWARD[name], LARGE.n_queries)


def measure(
    name: str, function: Callable[..., Any], small: Case, large: Case, found: dict[str, Any], device: Device
) -> float:
    """Check a forward or a decode at the small size, and return the milliseconds of a call at the large one."""
    dtype = ladder.dtype_of(name)
    found |= check(small, dtype, function, None, device.move, device.back)
    return milliseconds(partial(function, *arrays(large, device, dtype), Mask(), SCALE))


def measure_backward(name: str, function: Callable[..., Any], found: dict[str, Any], device: Device) -> float:
    """The same of a backward, without the forward before it."""
    dtype = ladder.dtype_of(name)
    found |= check(SMALL, dtype, device.forward, function, device.move, device.back)
    q, k, v = arrays(LARGE, device, dtype)
    z, lse = device.forward(q, k, v, Mask(), SCALE)
    dz = device.move(np.random.default_rng(1).standard_normal(z.shape).astype(z.dtype))
    return milliseconds(partial(function, q, k, v, z, lse, dz, None, Mask(), SCALE))


if __name__ == "__main__":
    main()
