"""What the kernels need from arrays: pointers, strides, alignment, and the mask's bounds."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gta_cuda.intrinsics import SIMULATED
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module


def pointer(x: Any) -> Any:
    """The argument that stands for `x` in a launch: the address of its first element, in the simulator a flat array."""
    if not SIMULATED:
        return x.data.ptr
    flat = x.view(np.uint16) if x.dtype.name == "bfloat16" else x
    span = 1 + sum((n - 1) * stride for n, stride in zip(flat.shape, strides(flat), strict=True)) if flat.size else 0
    return np.lib.stride_tricks.as_strided(flat, (span,), (flat.itemsize,))


def strides(x: Array) -> tuple[int, ...]:
    """The distance between neighbouring elements along each axis, in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)


def rows(x: Array) -> Array:
    """`x` itself if its rows are contiguous, as they are in a view of a cache; otherwise a contiguous copy."""
    ascending = all(stride >= 0 for stride in x.strides)
    if ascending and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize):
        return x
    return array_module(x).ascontiguousarray(x)


def is_wide(*arrays: Array) -> bool:
    """Whether every row of every array begins at a multiple of 16 bytes and has a length that is one."""
    return all(
        _address(x) % 16 == 0 and x.shape[-1] * x.itemsize % 16 == 0 and all(s % 16 == 0 for s in x.strides[:-1])
        for x in arrays
    )


def _address(x: Array) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def bounds(mask: Mask, batch: int, n_queries: int, n_keys: int, like: Array, stream: int) -> Array:
    """The mask's q_start, k_start and k_stop, concatenated, as int32 (3·B,) on the device of `like`."""
    resolved = np.stack(mask.resolve(batch, n_queries, n_keys))
    # clipping changes no result and keeps sums of these numbers within 32 bits
    resolved[0] = resolved[0].clip(-n_queries, n_keys)
    resolved[1:] = resolved[1:].clip(0, n_keys)
    packed = resolved.astype(np.int32).ravel()
    if isinstance(like, np.ndarray):
        return packed
    return _on_device(packed.tobytes(), like.device.id, stream)


@lru_cache(maxsize=256)
def _on_device(packed: bytes, device: int, stream: int) -> Array:
    """The bounds on the GPU, copied once per mask, device and stream: training uses the same ones in every step."""
    import cupy

    return cupy.asarray(np.frombuffer(packed, np.int32))


def current_stream(like: Array) -> int:
    """Handle of CuPy's current stream, on which all kernels are launched; 0 in the simulator."""
    if isinstance(like, np.ndarray):
        return 0
    import cupy

    return cupy.cuda.get_current_stream().ptr


def multiprocessors(like: Array) -> int:
    """Number of multiprocessors of the GPU that `like` is on; 1 in the simulator."""
    return 1 if isinstance(like, np.ndarray) else like.device.attributes["MultiProcessorCount"]
