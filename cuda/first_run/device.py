"""The device of the first run: a GPU with CuPy's arrays, or Numba's simulator with NumPy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from gta_cuda.first_run import numpy_names  # noqa: F401 (adds the names)
from gta_cuda.intrinsics import SIMULATED
from gta_ref.core import Mask
from gta_ref.ops.arrays import Array


class Device:
    """The functions of the engine, and the way to its arrays and back."""

    def move(self, x: Array) -> Any:
        """Copy a NumPy array to the device."""
        if SIMULATED:
            return x
        import cupy

        return cupy.asarray(x)

    def back(self, x: Any) -> Array:
        """Copy an array of the device to NumPy."""
        return x if isinstance(x, np.ndarray) else x.get()

    def forward(self, q: Array, k: Array, v: Array, mask: Mask, scale: float) -> tuple[Array, Array]:
        """z and lse with the kernel that the engine chooses; in the simulator that of the forward, with small tiles."""
        from gta_cuda import engine, forward_bf16, launch

        if not SIMULATED:
            return engine.run(q, k, v, mask, scale)
        if q.dtype.name == "bfloat16":
            return launch.forward_bf16(q, k, v, mask, scale, forward_bf16.Tile(16, 16))
        return launch.forward(q, k, v, mask, scale, _small_tile())

    def backward(
        self, q: Array, k: Array, v: Array, z: Array, lse: Array, dz: Array, dlse: Array, mask: Mask, scale: float
    ) -> tuple[Array, Array, Array]:
        """dq, dk and dv."""
        from gta_cuda import engine, launch

        if SIMULATED:
            return launch.backward(q, k, v, z, lse, dz, dlse, mask, scale, _small_tile())
        return engine.run_backward(dz, engine.State(q, k, v, z, lse, mask, scale, False), dlse)

    def synchronize(self) -> None:
        """Wait for the device, so that an error of a kernel is raised here."""
        if not SIMULATED:
            import cupy

            cupy.cuda.runtime.deviceSynchronize()


def _small_tile() -> Any:
    from gta_cuda.tiles import Tile

    return Tile(rows=8, columns=8, groups=4, height=4)


class _Poisoned:
    """NumPy with set bits in every new array."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> Array:
        """An array whose bits are all set."""
        x: Array = np.empty(shape, dtype)
        x.reshape(-1).view(np.uint8)[...] = 0xFF
        return x

    def empty_like(self, other: Array) -> Array:
        """The same with another array's shape and dtype."""
        return self.empty(other.shape, other.dtype)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill every new array with set bits, NaN as a float: a result that a kernel does not write is seen."""
    if SIMULATED:
        from gta_cuda import launch_backward, launch_decode, launch_forward

        # only for the arrays of a launch: the simulator's own shared arrays must come from np.empty at once, or two
        # threads of a block may each make one
        with ExitStack() as patches:
            for module in (launch_backward, launch_decode, launch_forward):
                patches.enter_context(mock.patch.object(module, "array_module", return_value=_Poisoned()))
            yield
        return
    import cupy

    before, pool = cupy.cuda.get_allocator(), cupy.cuda.MemoryPool()

    def allocate(size: int) -> Any:
        memory = pool.malloc(size)
        memory.memset(0xFF, size)
        return memory

    cupy.cuda.set_allocator(allocate)
    try:
        yield
    finally:
        cupy.cuda.set_allocator(before)


@contextmanager
def noted_launches() -> Iterator[list[str]]:
    """The keys of the kernels that are launched in the block."""
    from gta_cuda.kernels import Kernel

    keys: list[str] = []
    launch: Callable[..., None] = Kernel.launch

    def noted(self: Kernel, *arguments: Any) -> None:
        if self.key not in keys:
            keys.append(self.key)
        launch(self, *arguments)

    Kernel.launch = noted
    try:
        yield keys
    finally:
        Kernel.launch = launch
