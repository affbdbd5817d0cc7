"""A kernel with everything that is needed to compile and launch it, and with its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint16

from gta_cuda import carried
from gta_cuda.intrinsics import SIMULATED
from gta_cuda.needs import cannot_compile
from gta_ref.core.engines import EngineError

if SIMULATED:
    from numba import types  # the simulator that comes with Numba has no others
else:
    from numba.cuda import types

FLOATS, HALVES, INTS = types.CPointer(float32), types.CPointer(uint16), types.CPointer(int32)
STRIDES = types.UniTuple(int64, 9)  # for q, k and v: distances in elements to the next sequence, head and row
NUMBER, COUNT = float32, int32

# most bytes of static shared memory per block, on every GPU; a kernel that needs more asks for dynamic shared memory
# (`Kernel.shared`), of which a GPU has more: 163 KB per block on sm_80, 227 KB on sm_90
MOST_SHARED = 48 * 1024

Grid = tuple[int, int, int]  # blocks along each axis
Launch = Callable[[Grid, int, "tuple[Any, ...]"], None]  # of a grid, the handle of a stream, and flat arguments


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
        Types of the arguments: pointers, at most one STRIDES, NUMBER and COUNT. Arrays are passed as pointers, so a
        launch has nothing to convert.
    threads : int
        Threads per block.
    blocks : int
        Blocks that have to fit on a multiprocessor at once. This limits a thread to 65,536 / (threads · blocks)
        registers, and to at most 255.
    tensor_cores : bool
        Whether the kernel has to contain HMMA instructions.
    key : str
        The purpose and everything else that decides the machine code, such as "forward_bf16-64-128-wide-128x64".
        Machine code that was built elsewhere is found by it (``carried``). With the default, "", none is looked for.
    shared : int
        Bytes of dynamic shared memory per block; default 0. If a kernel asks for some, the driver is told when the
        machine code is loaded, so that the static and the dynamic memory together may exceed MOST_SHARED.
    only : (int, int) or (int, int, str), optional
        The one compute capability whose GPUs have all of the kernel's instructions, such as (9, 0, "a") for wgmma; by
        default, all from (8, 0) on have them.
    """

    name: str
    function: Callable
    arguments: tuple
    threads: int
    blocks: int = 1
    tensor_cores: bool = False
    key: str = ""
    shared: int = 0
    only: tuple[int | str, ...] | None = None

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

    def launch(self, grid: Grid, stream: int, *arguments: Any) -> None:
        """Launch the kernel.

        Parameters
        ----------
        grid : (int, int, int)
            Blocks along each axis.
        stream : int
            Handle of the stream; 0 is the default stream.
        *arguments : int, float or tuple of int
            One per type in `arguments`: addresses, a tuple of 9 strides, numbers. In the simulator, arrays take the
            place of the addresses.
        """
        if SIMULATED:
            self.compiled[grid, self.threads, 0, self.shared](*self._typed(arguments))
            return
        pack = carried.current()
        launch = self._prepared.get(pack)
        if launch is None:
            launch = self._prepared[pack] = (pack and pack.prepare(self)) or by_numba(self)
        at = self._strides_at
        if at is not None:
            arguments = (*arguments[:at], *arguments[at], *arguments[at + 1 :])
        launch(grid, stream, arguments)

    @cached_property
    def _prepared(self) -> dict[carried.Pack | None, Launch]:
        """What is kept from launch to launch: how to launch this kernel, for each pack that was in use."""
        return {}

    @cached_property
    def _strides_at(self) -> int | None:
        return self.arguments.index(STRIDES) if STRIDES in self.arguments else None

    def _typed(self, arguments: tuple[Any, ...]) -> list[Any]:
        """The arguments as the simulator needs them, which computes with NumPy's numbers."""
        make: dict[Any, Callable[[Any], Any]] = {NUMBER: np.float32, COUNT: np.int32}
        make[STRIDES] = lambda strides: tuple(np.int64(n) for n in strides)
        return [make[kind](x) if kind in make else x for kind, x in zip(self.arguments, arguments, strict=True)]


def by_numba(kernel: Kernel) -> Launch:
    """Compile a kernel with Numba, load it, and return the function that launches it.

    Numba's own launch finds out the type of each argument anew every time. Here the function that Numba calls in the
    end, ``launch`` of cuda.core, is called with numbers of the right types. If another version of numba-cuda has no
    such function where it is looked for, Numba's own launch is used.

    Raises
    ------
    gta_ref.core.EngineError
        If this numba-cuda can compile nothing with this NumPy.
    """
    if (reason := cannot_compile()) is not None:
        pack = carried.current()
        raise EngineError(
            reason if pack is None else f"{pack.folder} has no machine code for {kernel.key}, and {reason}"
        )
    dispatcher = kernel.compiled
    try:
        from numba.cuda import dispatcher as internals
        from numba.cuda.cudadrv.driver import ExperimentalStream as Stream

        function = next(iter(dispatcher.overloads.values())).library.get_cufunc()
        launch, configure, code = internals.launch, internals.LaunchConfig, function.kernel
    except (AttributeError, ImportError):
        return _by_dispatcher(kernel)
    if kernel.shared:
        from numba.cuda.cudadrv.driver import binding, driver

        most = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.cuKernelSetAttribute(most, kernel.shared, function.handle, function.device.id)
    block = (kernel.threads, 1, 1)
    configured = lru_cache(256)(lambda grid: configure(grid=grid, block=block, shmem_size=kernel.shared))
    stream_of = lru_cache(16)(Stream.from_handle)
    # to cuda.core, an int is an integer of 8 bytes, as pointers and strides are; the numbers come after them
    makers = [{NUMBER: np.float32, COUNT: np.int32}[kind] for kind in kernel.arguments if kind in (NUMBER, COUNT)]

    def run(grid: Grid, stream: int, flat: tuple[Any, ...]) -> None:
        first = len(flat) - len(makers)
        numbers = [make(x) for make, x in zip(makers, flat[first:], strict=True)]
        launch(stream_of(stream), configured(grid), code, *flat[:first], *numbers)

    return run


def _by_dispatcher(kernel: Kernel) -> Launch:
    if kernel.shared:
        raise NotImplementedError(
            f"{kernel.name}: this version of numba-cuda cannot be asked for dynamic shared memory"
        )
    at, dispatcher = kernel._strides_at, kernel.compiled

    def run(grid: Grid, stream: int, flat: tuple[Any, ...]) -> None:
        arguments = flat if at is None else (*flat[:at], flat[at : at + 9], *flat[at + 9 :])
        on = cuda.external_stream(stream) if stream else 0
        dispatcher[grid, kernel.threads, on](*arguments)

    return run


def widths_key(name: str, d_k: int, d_v: int, wide: bool, *more: object) -> str:
    """The key of a kernel that is made for two widths; `more` is what else it is made for, such as its tile."""
    parts = ("x".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in more)
    return "-".join([name, str(d_k), str(d_v), *(["wide"] if wide else []), *parts])
