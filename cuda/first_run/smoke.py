"""Step 1 and 2: each engine kernel once, at GTA-1B's widths, against float64.

python -m gta_cuda.first_run.smoke 1               the carried machine code (GTA_CUDA_PACK names its folder)
python -m gta_cuda.first_run.smoke 2               the same kernels by Numba's own path, without the pack
python -m gta_cuda.first_run.smoke 6 --few         small shapes without a memory pool, for compute-sanitizer
python -m gta_cuda.first_run.smoke 7 --only NAME   one of them, for a profiler
"""

from __future__ import annotations

import argparse

from gta_cuda.first_run.cases import Case, check
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


def main() -> None:
    """Run the kernels that the arguments name."""
    parser = argparse.ArgumentParser(description="Run each engine kernel once and compare it with float64.")
    parser.add_argument("step", help="number of the step, as the results name it")
    parser.add_argument("--few", action="store_true", help="small shapes, and every array an allocation of its own")
    parser.add_argument("--only", help="run only the entry of this name")
    arguments = parser.parse_args()
    if arguments.few:
        import cupy

        cupy.cuda.set_allocator(None)  # so that a checker sees where an array ends
    device = Device()
    for name, (dtype, case, with_backward) in (FEW if arguments.few else KERNELS).items():
        if arguments.only not in (None, name):
            continue
        with attempt(arguments.step, name) as found, noted_launches() as keys:
            found |= check(
                case, dtype, device.forward, device.backward if with_backward else None, device.move, device.back
            )
            device.synchronize()
            found["kernels"] = keys


if __name__ == "__main__":
    main()
