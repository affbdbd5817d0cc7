"""What the kernels want to know about arrays: pointers, strides, alignment, and the mask's bounds."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gta_cuda.intrinsics import SIMULATED
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module


def pointer(x: Array) -> Any:
    """What a kernel gets for `x`: the address of its first element; in the simulator the memory as a flat array."""
    if not SIMULATED:
        return x.data.ptr
    flat = x.view(np.uint16) if x.dtype.name == "bfloat16" else x
    span = 1 + sum((n - 1) * stride for n, stride in zip(flat.shape, strides(flat), strict=True)) if flat.size else 0
    return np.lib.stride_tricks.as_strided(flat, (span,), (flat.itemsize,))


def strides(x: Array) -> tuple[int, ...]:
    """From an element to the next along every axis, in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)


def rows(x: Array) -> Array:
    """`x` itself where its rows are contiguous, as those of a cache's view are; else a copy."""
    ascending = all(stride >= 0 for stride in x.strides)
    if ascending and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize):
        return x
    return array_module(x).ascontiguousarray(x)


def is_wide(*arrays: Array) -> bool:
    """Whether all rows of all arrays begin at, and consist of, whole groups of 16 bytes."""
    return all(
        _address(x) % 16 == 0 and x.shape[-1] * x.itemsize % 16 == 0 and all(s % 16 == 0 for s in x.strides[:-1])
        for x in arrays
    )


def _address(x: Array) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def bounds(mask: Mask, batch: int, n_queries: int, n_keys: int, like: Array, stream: int) -> Array:
    """The mask's q_start, k_start and k_stop, one after the other, int32 (3·B,), where `like` is."""
    resolved = np.stack(mask.resolve(batch, n_queries, n_keys))
    # beyond these values nothing changes, and they keep 32-bit sums of them from overflowing
    resolved[0] = resolved[0].clip(-n_queries, n_keys)
    resolved[1:] = resolved[1:].clip(0, n_keys)
    packed = resolved.astype(np.int32).ravel()
    if isinstance(like, np.ndarray):
        return packed
    return _on_device(packed.tobytes(), like.device.id, stream)


@lru_cache(maxsize=256)
def _on_device(packed: bytes, device: int, stream: int) -> Array:
    """Copied once for a mask, device and stream: a training loop asks for the same ones again and again."""
    import cupy

    return cupy.asarray(np.frombuffer(packed, np.int32))


def current_stream(like: Array) -> int:
    """Handle of CuPy's current stream, on which everything is launched."""
    if isinstance(like, np.ndarray):
        return 0
    import cupy

    return cupy.cuda.get_current_stream().ptr


def multiprocessors(like: Array) -> int:
    """Of the GPU that `like` is on; 1 in the simulator."""
    return 1 if isinstance(like, np.ndarray) else like.device.attributes["MultiProcessorCount"]
