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
    if min(x.strides) >= 0 and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize):
        return x
    return array_module(x).ascontiguousarray(x)


def layout(*arrays: Array) -> tuple[tuple[int, ...], bool]:
    """How 4-D arrays with contiguous rows lie in memory.

    Returns
    -------
    strides : tuple of int
        For each array, the distances in elements to its next sequence, head and row: the `strides` of the kernels.
    wide : bool
        Whether every row of every array begins at a multiple of 16 bytes and has a length that is one.
    """
    found: list[int] = []
    bits = (
        0  # a number is a multiple of 16 if its last four bits are 0; all numbers together, if those of their "or" are
    )
    for x in arrays:
        size = x.itemsize
        sequence, head, row, _ = x.strides
        bits |= _address(x) | sequence | head | row | x.shape[3] * size
        found += (sequence // size, head // size, row // size)
    return tuple(found), bits % 16 == 0


def is_wide(*arrays: Array) -> bool:
    """Whether every row of every array begins at a multiple of 16 bytes and has a length that is one."""
    return layout(*arrays)[1]


def _address(x: Array) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


MOST_BOUNDS = 1024
_bounds: dict[tuple[Any, ...], Array] = {}


def bounds(mask: Mask, batch: int, n_queries: int, n_keys: int, like: Array, stream: int) -> Array:
    """The mask's q_start, k_start and k_stop, concatenated, as int32 (3·B,) on the device of `like`.

    They are made once per values, sizes, device and stream: all layers of a model use the same ones, and training uses
    them in every step. The first call copies them to the GPU; later calls copy nothing. The last MOST_BOUNDS arrays
    are kept.

    Raises
    ------
    RuntimeError
        If they would have to be copied while the stream is being captured into a graph.
    """
    device = None if isinstance(like, np.ndarray) else like.device.id
    values = (_value(mask.q_start), _value(mask.k_start), _value(mask.k_stop))
    key = (batch, n_queries, n_keys, values, device, stream)
    found = _bounds.get(key)
    if found is None:
        if len(_bounds) >= MOST_BOUNDS:
            _bounds.pop(next(iter(_bounds)), None)  # the oldest
        packed = _packed(mask, batch, n_queries, n_keys)
        found = _bounds[key] = packed if device is None else _copied(packed)
    return found


def _value(bound: Any) -> int | bytes | None:
    """A bound of a mask as something that can be looked up."""
    return bound.tobytes() if isinstance(bound, np.ndarray) else bound


def _packed(mask: Mask, batch: int, n_queries: int, n_keys: int) -> np.ndarray:
    resolved = np.stack(mask.resolve(batch, n_queries, n_keys))
    # clipping changes no result and keeps sums of these numbers within 32 bits
    resolved[0] = resolved[0].clip(-n_queries, n_keys)
    resolved[1:] = resolved[1:].clip(0, n_keys)
    return resolved.astype(np.int32).ravel()


def _copied(packed: np.ndarray) -> Array:
    import cupy

    if cupy.cuda.get_current_stream().is_capturing():
        raise RuntimeError(
            "the bounds of this mask and these sizes are not on the GPU yet, and cannot be copied while a stream is "
            "captured: run the same call once on this stream before the capture"
        )
    found: Array = cupy.asarray(packed)
    return found


def current_stream(like: Array) -> int:
    """Handle of CuPy's current stream, on which all kernels are launched; 0 in the simulator."""
    if isinstance(like, np.ndarray):
        return 0
    import cupy

    stream: int = cupy.cuda.get_current_stream().ptr
    return stream


def multiprocessors(like: Array) -> int:
    """Number of multiprocessors of the GPU that `like` is on; 1 in the simulator."""
    return 1 if isinstance(like, np.ndarray) else _size(like.device.id)[0]


def resident(like: Array, blocks: int, shared: int) -> int:
    """How many blocks run at once on the GPU that `like` is on.

    blocks: how many a multiprocessor can have, as far as its registers are concerned.
    shared: bytes of shared memory per block.
    """
    if not isinstance(like, np.ndarray):
        blocks = max(1, min(blocks, _size(like.device.id)[1] // (shared + SYSTEM_SHARED)))
    return blocks * multiprocessors(like)


SYSTEM_SHARED = 1024  # bytes that the driver takes of every block's shared memory


@lru_cache(maxsize=16)
def _size(device: int) -> tuple[int, int]:
    """Multiprocessors of a device, and the bytes of shared memory that each has.

    CuPy asks the driver for all attributes of a device when it is asked for one.
    """
    import cupy

    found = cupy.cuda.Device(device).attributes
    return found["MultiProcessorCount"], found["MaxSharedMemoryPerMultiprocessor"]
