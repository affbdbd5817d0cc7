"""Step 5: the ladder, the same forward written several times, each checked at a small size and timed at N 8192.

    python -m gta_cuda.first_run.ladder

Each step is compiled by Numba's own path. The times are those of the kernel alone, at GTA-1B's heads and widths.
"""

from __future__ import annotations

from functools import partial

from gta_cuda import ladder
from gta_cuda.first_run.cases import check
from gta_cuda.first_run.device import Device
from gta_cuda.first_run.results import attempt
from gta_cuda.first_run.variants import LARGE, SMALL, STEP, arrays, milliseconds
from gta_ref.bench.gpu_cases import Case
from gta_ref.core import Mask


def main() -> None:
    """Check and time every step of the ladder."""
    device, scale, mask = Device(), 64**-0.5, Mask()
    operations = Case("forward", "bfloat16", LARGE.batch, LARGE.n_queries).operations
    for name, function in ladder.steps().items():
        dtype = "bfloat16" if "bf16" in name or "wgmma" in name else "float32"
        with attempt(STEP, f"ladder, {name}", dtype=dtype) as found:
            found |= check(SMALL, dtype, function, None, device.move, device.back)
            found["ms"] = milliseconds(partial(function, *arrays(LARGE, device, dtype), mask, scale))
            found["TFLOP/s"] = operations / found["ms"] / 1e9


if __name__ == "__main__":
    main()
