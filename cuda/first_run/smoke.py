"""Step 1 and 2: each engine kernel once, at GTA-1B's widths, against float64.

python -m gta_cuda.first_run.smoke 1               the carried machine code (GTA_CUDA_PACK names its folder)
python -m gta_cuda.first_run.smoke 2               the same kernels by Numba's own path, without the pack
python -m gta_cuda.first_run.smoke 6 --few         small shapes without a memory pool, for compute-sanitizer
python -m gta_cuda.first_run.smoke 7 --large       large shapes without a check, for a profiler
"""

from __future__ import annotations

import argparse

import numpy as np

from gta_cuda.first_run.cases import Case, check, make
from gta_cuda.first_run.device import Device, noted_launches
from gta_cuda.first_run.results import attempt

# name: dtype, case, whether with the backward
KERNELS = {
    "delta and forward, backward float32": ("float32", Case(1, 5, 1, 1, 256, 256, 64, 128), True),
    "forward bfloat16": ("bfloat16", Case(1, 5, 1, 1, 256, 256, 64, 128), False),
    "forward bfloat16, N 2048": ("bfloat16", Case(1, 5, 1, 1, 2048, 2048, 64, 128), False),
    "decode bfloat16, one split": ("bfloat16", Case(1, 5, 1, 1, 1, 60, 64, 128), False),
    "decode bfloat16": ("bfloat16", Case(2, 5, 1, 1, 1, 8192, 64, 128), False),
    "decode float32": ("float32", Case(2, 5, 1, 1, 1, 8192, 64, 128), False),
    "forward float32, N 2048": ("float32", Case(1, 5, 1, 1, 2048, 2048, 64, 128), False),
}
FEW = {
    "delta and forward, backward float32": ("float32", Case(1, 5, 1, 1, 70, 70, 64, 128), True),
    "forward bfloat16": ("bfloat16", Case(1, 5, 1, 1, 130, 130, 64, 128), False),
    "decode bfloat16": ("bfloat16", Case(1, 5, 1, 1, 1, 700, 64, 128), False),
    "decode float32": ("float32", Case(1, 5, 1, 1, 1, 700, 64, 128), False),
}
LARGE = {
    "forward, backward float32, N 4096": ("float32", Case(1, 5, 1, 1, 4096, 4096, 64, 128), True),
    "forward, backward bfloat16, N 8192": ("bfloat16", Case(1, 5, 1, 1, 8192, 8192, 64, 128), True),
    "decode bfloat16, B 1, N 131072": ("bfloat16", Case(1, 5, 1, 1, 1, 131072, 64, 128), False),
    "decode bfloat16, B 32, N 8192": ("bfloat16", Case(32, 5, 1, 1, 1, 8192, 64, 128), False),
    "decode float32, B 32, N 8192": ("float32", Case(32, 5, 1, 1, 1, 8192, 64, 128), False),
}


def run(case: Case, dtype: str, with_backward: bool, device: Device) -> None:
    """Launch the kernels of a case on random numbers."""
    rng = np.random.default_rng(0)
    q, k, v = (device.move(x) for x in make(case, dtype, rng))
    z, lse = device.forward(q, k, v, case.mask, case.d_k**-0.5)
    if with_backward:
        device.backward(q, k, v, z, lse, z, lse, case.mask, case.d_k**-0.5)


def main() -> None:
    """Run the kernels that the arguments name."""
    parser = argparse.ArgumentParser(description="Run each engine kernel once and compare it with float64.")
    parser.add_argument("step", help="number of the step, as the results name it")
    parser.add_argument("--few", action="store_true", help="small shapes, and every array an allocation of its own")
    parser.add_argument("--large", action="store_true", help="large shapes, without a check")
    arguments = parser.parse_args()
    if arguments.few:
        import cupy

        cupy.cuda.set_allocator(None)  # so that a checker sees where an array ends
    device = Device()
    cases = LARGE if arguments.large else FEW if arguments.few else KERNELS
    for name, (dtype, case, with_backward) in cases.items():
        with attempt(arguments.step, name) as found, noted_launches() as keys:
            if arguments.large:
                run(case, dtype, with_backward, device)
            else:
                backward = device.backward if with_backward else None
                found |= check(case, dtype, device.forward, backward, device.move, device.back)
            device.synchronize()
            found["kernels"] = keys


if __name__ == "__main__":
    main()
