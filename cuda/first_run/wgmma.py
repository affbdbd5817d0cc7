"""The wgmma forward on a GPU of capability 9.0: one instruction with known operands, then the kernel, then its speed.

    python -m gta_cuda.first_run.wgmma

The first part finds out where in shared memory an instruction reads element (k, n) of its operand B: A has a single 1
per row, and every element of shared memory holds its own number, seven bits at a time. These places are compared with
those at which the kernel's tiles lie, and with those that ``emulated_wgmma`` decodes from the same descriptor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import gta_cuda.first_run.numpy_names  # noqa: F401 (Numba compiles what the pack does not hold)
from gta_cuda import launch
from gta_cuda.arrays import current_stream, pointer
from gta_cuda.emulated_wgmma import Place
from gta_cuda.first_run.cases import CASES, Case, check
from gta_cuda.first_run.device import Device
from gta_cuda.first_run.results import attempt, record
from gta_cuda.first_run.variants import arrays, milliseconds
from gta_cuda.forward_bf16 import Tile as TileBf16
from gta_cuda.launch_forward import has_wgmma
from gta_cuda.wgmma_probe import ELEMENTS, probe_kernel
from gta_ref.core import Mask
from gta_ref.ops.arrays import Array

STEP = "5"
MODES = ((64, False), (32, False), (64, True), (128, True))  # n, and whether B is stored by rows
ROWS, EIGHT = 64, 1024  # rows of a block of a tile here, and bytes of eight of them
MORE = {
    "a row of one query": Case(1, 5, 1, 1, 1, 77, 64, 128),
    "masks": Case(2, 4, 1, 2, 150, 300, 64, 128, Mask(q_start=[-20, 170], k_start=[3, 64], k_stop=[128, 300])),
    "2048 keys": Case(1, 5, 1, 1, 2048, 2048, 64, 128),
    "d_k 128": Case(1, 4, 1, 1, 130, 333, 128, 128),
    "narrow": Case(1, 4, 2, 1, 67, 99, 40, 72, Mask(causal=False)),
}
LENGTHS = (4096, 8192, 16384)


def bits(x: Array) -> Array:
    """Bits of the numbers as bfloat16, cut off after 16 bits."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def numbers(halves: Array) -> Array:
    """The numbers whose bits as bfloat16 these are."""
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def fields_of(n: int, transposed: bool, start: int) -> tuple[int, int, int]:
    """Leading and stride in bytes, and the first element, as the kernel passes them."""
    return (ROWS * 128, EIGHT, start) if transposed else (16, EIGHT, start)


def wanted(n: int, transposed: bool, start: int) -> Array:
    """(16, n): where the kernel's tiles have B[k, n]: group c of row r in place c xor (r mod 8), in blocks."""
    k, j = np.meshgrid(np.arange(16), np.arange(n), indexing="ij")
    if transposed:
        row, column, block = start // 64 + k, j % 64, j // 64
    else:
        row, column, block = start // 64 + j, start % 64 + k, 0 * j
    return block * 64 * ROWS + row * 64 + ((column // 8) ^ (row % 8)) * 8 + column % 8


def multiply(device: Device, n: int, transposed: bool, start: int, a: Array, image: Array) -> Array:
    """A B (64, n) of an image of shared memory, computed by one instruction."""
    a, image, d = (device.move(x) for x in (a, image, np.full((64, n), np.nan, np.float32)))
    fields = fields_of(n, transposed, start)
    probe_kernel(n, transposed).launch((1, 1, 1), current_stream(d), *map(pointer, (a, image, d)), *fields)
    return device.back(d)


def places(device: Device, n: int, transposed: bool, start: int) -> Array:
    """(16, n): the element of shared memory that the instruction reads as B[k, n]; −1 if the rows of A disagree."""
    a, number = bits(np.tile(np.eye(16), (4, 1))), np.arange(ELEMENTS)
    low, high = (multiply(device, n, transposed, start, a, bits(x)) for x in (number & 127, number >> 7))
    read = np.nan_to_num(low + 128 * high, nan=-1).reshape(4, 16, n)
    return np.where((read == read[0]).all(axis=0), read[0], -1).astype(int)


def check_instruction(device: Device, n: int, transposed: bool, start: int) -> dict[str, Any]:
    """Compare the places and a product of random operands."""
    read, want = places(device, n, transposed, start), wanted(n, transposed, start)
    leading, stride, _ = fields_of(n, transposed, start)
    decoded = Place(2 * start, leading, stride, 0, 1).addresses(n, transposed) // 2
    rng = np.random.default_rng(1)
    a, b = (bits(rng.standard_normal(shape)) for shape in ((64, 16), (16, n)))
    image = np.zeros(ELEMENTS, np.uint16)
    image[want] = b
    error = float(np.abs(multiply(device, n, transposed, start, a, image) - numbers(a) @ numbers(b)).max())
    found: dict[str, Any] = {
        "as_stored": float((read == want).mean()),
        "as_decoded": float((read == decoded).mean()),
        "error": error,
    }
    found["ok"] = found["as_stored"] == found["as_decoded"] == 1 and error < 1e-4
    if not found["ok"]:
        some = ((0, 0), (0, 1), (0, 8), (0, n - 1), (1, 0), (8, 0), (15, 0))
        found["read_at"] = {f"{k},{j}": [int(read[k, j]), int(want[k, j])] for k, j in some}
    return found


def main() -> None:
    """Record what each part finds."""
    device, scale = Device(), 64**-0.5
    if not has_wgmma(device.move(np.zeros(1, np.float32))):
        record(STEP, "wgmma", None, left_out="the GPU has no wgmma; only those of capability 9.0 have it")
        return
    for n, transposed in MODES:
        for start in (0, 16 * 64, 32 * 64) if transposed else (0, 16, 32, 48):
            with attempt(STEP, f"one wgmma, n {n}, B by {'rows' if transposed else 'columns'}, start {start}") as found:
                found |= check_instruction(device, n, transposed, start)
    usual = {name: case for name, case in CASES.items() if case.d_k <= 128 and case.d_k % 8 == case.d_v % 8 == 0}
    for name, case in {**usual, **MORE}.items():
        with attempt(STEP, f"forward with wgmma: {name}") as found:
            found |= check(case, "bfloat16", launch.forward_wgmma, None, device.move, device.back)
    for length in LENGTHS:
        case = Case(1, 5, 1, 1, length, length, 64, 128)
        for name, run in {
            "wgmma": launch.forward_wgmma,
            "mma": partial(launch.forward_bf16, tile=TileBf16.of(64)),
        }.items():
            with attempt(STEP, f"forward with {name}, N {length}") as found:
                found["ms"] = milliseconds(partial(run, *arrays(case, device), Mask(), scale))
                found["TFLOP/s"] = 5 * length * (length + 1) * (64 + 128) / found["ms"] / 1e9


if __name__ == "__main__":
    main()
