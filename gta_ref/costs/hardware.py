"""How fast a machine can compute and move bytes: presets with their sources, or a measurement of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gta_ref.errors import as_positive_float, as_size, check_type, shown


@dataclass(frozen=True)
class Hardware:
    """A machine as described by a roofline model.

    Attributes
    ----------
    name : str
    peak : float
        Operations per second; a multiply–accumulate counts as two.
    bandwidth : float
        Bytes per second between memory and processor.
    memory : int or None
        Size of that memory in bytes; None if it is unknown.
    source : str
        Where the figures come from.
    """

    name: str
    peak: float
    bandwidth: float
    memory: int | None
    source: str

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a str")
        as_positive_float("peak", self.peak)
        as_positive_float("bandwidth", self.bandwidth)
        if self.memory is not None:
            as_size("memory", self.memory)
        check_type("source", self.source, str, "a str")


def check_hardware(hardware: object) -> None:
    """Raise ValueError unless `hardware` is a Hardware."""
    check_type("hardware", hardware, Hardware, "a gta_ref.costs.hardware.Hardware")


PRESETS = {
    "h100": Hardware(
        "h100",
        989.4e12,
        3350e9,
        80 * 10**9,
        "NVIDIA H100 SXM5 datasheet: bfloat16 without sparsity, HBM3",
    ),
    "a100": Hardware(
        "a100",
        312e12,
        2039e9,
        80 * 10**9,
        "NVIDIA A100 80GB SXM datasheet: bfloat16 without sparsity, HBM2e",
    ),
    "rtx3060": Hardware(
        "rtx3060",
        25.5e12,
        360e9,
        12 * 10**9,
        "NVIDIA's announcement of the RTX 3060 12GB: 101 tensor TFLOP/s with sparsity, so 51 without; half of "
        "that where float16 products accumulate in float32. 192 bits of GDDR6 at 15 Gbit/s",
    ),
    "m2": Hardware(
        "m2",
        3.6e12,
        100e9,
        24 * 10**9,
        "Apple's announcement of the M2, June 2022: 10-core GPU in float32, unified memory, its largest size",
    ),
}


def get(text: str) -> Hardware:
    """Return a preset by its name, this machine (``measured``), or one given by ``GB/s,TFLOP/s``, as in ``3072,989.5``.

    Raises
    ------
    ValueError
        If `text` is none of these.
    """
    check_type("hardware", text, str, "a str")
    if text in PRESETS:
        return PRESETS[text]
    if text == "measured":
        return measure()
    parts = text.split(",")
    try:
        bandwidth, peak = (float(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"hardware={shown(text)} must be one of {', '.join(PRESETS)}, measured, or two numbers: GB/s,TFLOP/s"
        ) from None
    return Hardware(text, peak * 1e12, bandwidth * 1e9, None, "given as GB/s,TFLOP/s")


def measure(seconds: float = 0.5) -> Hardware:
    """Measure this machine: a large float32 matrix product and a large copy, each the best run within `seconds`.

    A copy reads and writes, so it counts as twice its size. NumPy copies with one thread; on a machine with many cores
    the bandwidth measured is less than all of them together could reach.
    """
    seconds = as_positive_float("seconds", seconds)
    rng = np.random.default_rng(0)
    n = 2048
    a, b = rng.standard_normal((2, n, n), dtype=np.float32)
    product = np.empty_like(a)
    source = np.ones(32 * 2**20, np.float32)  # 128 MiB, larger than the caches
    target = np.empty_like(source)
    peak = 2 * n**3 / _best(lambda: np.matmul(a, b, out=product), seconds)
    bandwidth = 2 * source.nbytes / _best(lambda: np.copyto(target, source), seconds)
    return Hardware(
        "measured", peak, bandwidth, physical_memory(), f"float32 product of width {n}, copy of 128 MiB, by NumPy"
    )


def _best(call: Callable[[], object], seconds: float) -> float:
    call()  # warm-up: threads start, pages are mapped
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def physical_memory() -> int | None:
    """Bytes of the machine's main memory, or None if the platform does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        return None
