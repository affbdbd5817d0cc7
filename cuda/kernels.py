"""A kernel with everything that is needed to compile and launch it, and with its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numba import cuda, float32, int32, int64, uint16
from numba.cuda import types

from gta_cuda.intrinsics import SIMULATED

FLOATS, HALVES, INTS = types.CPointer(float32), types.CPointer(uint16), types.CPointer(int32)
STRIDES = types.UniTuple(int64, 9)  # for q, k and v: distances in elements to the next sequence, head and row
NUMBER, COUNT = float32, int32

# most bytes of static shared memory per block; Numba cannot request more
MOST_SHARED = 48 * 1024


def check_shared(d_k: int, d_v: int, needed: int) -> None:
    """Raise ValueError if a block needs more bytes of shared memory than it can have."""
    if needed > MOST_SHARED:
        raise ValueError(
            f"d_k={d_k}, d_v={d_v} need {needed:,} bytes of shared memory per block; expected {MOST_SHARED:,} at most"
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel for fixed widths.

    Attributes
    ----------
    name : str
        Its name in tables: that of its file, and its purpose.
    function : callable
        Python function in Numba's CUDA language.
    arguments : tuple of numba types
        Types of the arguments. Arrays are passed as pointers, so a launch has nothing to convert.
    threads : int
        Threads per block.
    blocks : int
        Blocks that have to fit on a multiprocessor at once. This limits a thread to 65,536 / (threads · blocks)
        registers, and to at most 255.
    tensor_cores : bool
        Whether the kernel has to contain HMMA instructions.
    """

    name: str
    function: Callable
    arguments: tuple
    threads: int
    blocks: int = 1
    tensor_cores: bool = False

    @property
    def most_registers(self) -> int:
        """Most registers per thread with which `blocks` blocks fit; they are allocated in groups of 8."""
        return min(255, 65536 // (self.threads * self.blocks) // 8 * 8)

    @cached_property
    def compiled(self) -> Any:
        """Numba's dispatcher for this kernel.

        It is compiled without fastmath, which would let the compiler assume that infinities and NaN do not occur: the
        maximum of a row that has not seen a key yet is −∞. The kernels call fast instructions one by one instead, such
        as ``ptx.exp2``.
        """
        if SIMULATED:
            return cuda.jit(self.function)
        from numba.cuda.core import config

        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small problem has a small grid; no warning is needed
        # lto=False, because link-time optimisation would give other machine code than `resources` measures
        bounds = (self.threads, self.blocks)
        return cuda.jit(types.void(*self.arguments), launch_bounds=bounds, lto=False)(self.function)

    def launch(self, grid: tuple[int, int, int], stream: int, *arguments: Any) -> None:
        """Launch the kernel on the stream with this handle; 0 is the default stream."""
        on = 0 if SIMULATED or stream == 0 else cuda.external_stream(stream)
        self.compiled[grid, self.threads, on](*arguments)
