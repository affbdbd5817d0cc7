"""Step 3: the cases of the GPU tests and random shapes, all results poisoned first, against float64.

python -m gta_cuda.first_run.correctness                 on a GPU
NUMBA_ENABLE_CUDASIM=1 python -m gta_cuda.first_run.correctness --tiny     two tiny shapes in the simulator
"""

from __future__ import annotations

import argparse

from gta_cuda.first_run.cases import CASES, TINY, check, random_cases
from gta_cuda.first_run.device import Device, poisoned
from gta_cuda.first_run.results import attempt

STEP = "3"


def main() -> None:
    """Check all cases in all dtypes."""
    parser = argparse.ArgumentParser(description="Compare the engine with float64 in many cases.")
    parser.add_argument("--tiny", action="store_true", help="only two tiny shapes, for the simulator")
    parser.add_argument("--random", type=int, default=40, help="number of random shapes; default 40")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random shapes; default 0")
    arguments = parser.parse_args()
    device = Device()
    cases = TINY if arguments.tiny else {**CASES, **random_cases(arguments.random, arguments.seed)}
    for name, case in cases.items():
        for dtype in ("float32", "bfloat16") if arguments.tiny else ("float32", "bfloat16", "float16"):
            # the backward has float32 kernels only; at reduced precision it is checked where the engine widens
            backward = device.backward if dtype == "float32" or not arguments.tiny else None
            with attempt(STEP, f"{name}, {dtype}", case=str(case)) as found, poisoned():
                found |= check(case, dtype, device.forward, backward, device.move, device.back)
                device.synchronize()


if __name__ == "__main__":
    main()
