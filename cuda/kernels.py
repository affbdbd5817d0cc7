"""A kernel with what it takes to compile and to launch it, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numba import cuda, float32, int32, int64, uint16
from numba.cuda import types

from gta_cuda.intrinsics import SIMULATED

FLOATS, HALVES, INTS = types.CPointer(float32), types.CPointer(uint16), types.CPointer(int32)
STRIDES = types.UniTuple(int64, 9)  # of q, k and v: from a sequence, a head and a row to the next, in elements
NUMBER, COUNT = float32, int32

# static shared memory of a block; Numba has no way to ask for more
MOST_SHARED = 48 * 1024


def check_shared(d_k: int, d_v: int, needed: int) -> None:
    """Raise ValueError where a block would need more bytes of shared memory than it can have."""
    if needed > MOST_SHARED:
        raise ValueError(
            f"d_k={d_k}, d_v={d_v} need {needed:,} bytes of shared memory a block; expected {MOST_SHARED:,} at most"
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel for fixed widths.

    Attributes
    ----------
    name : str
        Its file's name and what it is for, as the tables show it.
    function : callable
        Python function in Numba's CUDA language.
    arguments : tuple of numba types
        Arrays are pointers: a launch then converts nothing, and asks no array library for its opinion.
    threads : int
        Of a block.
    blocks : int
        Blocks that have to fit on a multiprocessor at once; this limits the registers of a thread to
        65,536 / (threads · blocks), and to 255.
    tensor_cores : bool
        Has to contain HMMA instructions.
    """

    name: str
    function: Callable
    arguments: tuple
    threads: int
    blocks: int = 1
    tensor_cores: bool = False

    @property
    def most_registers(self) -> int:
        """Registers of a thread with which `blocks` blocks fit (they are given out 8 at a time)."""
        return min(255, 65536 // (self.threads * self.blocks) // 8 * 8)

    @cached_property
    def compiled(self) -> Any:
        """Numba's dispatcher.

        No fastmath: it lets the compiler assume that no infinities and NaNs occur, and a row that has seen nothing
        yet has −∞ for its maximum. The fast instructions are asked for one by one instead (``ptx.exp2``).
        """
        if SIMULATED:
            return cuda.jit(self.function)
        from numba.cuda.core import config

        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small grid is no mistake here: the problem is small
        # lto=False: link-time optimisation would make other machine code of it than `resources` measures
        bounds = (self.threads, self.blocks)
        return cuda.jit(types.void(*self.arguments), launch_bounds=bounds, lto=False)(self.function)

    def launch(self, grid: tuple[int, int, int], stream: int, *arguments: Any) -> None:
        """Start it on the stream with this handle (0 is the default stream)."""
        on = 0 if SIMULATED or stream == 0 else cuda.external_stream(stream)
        self.compiled[grid, self.threads, on](*arguments)
