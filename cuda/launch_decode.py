"""Launching the decode kernels on arrays; see ``launch``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from gta_cuda import arrays
from gta_cuda.decode import make_decode, most_rows, step_keys
from gta_cuda.decode_bf16 import KEYS as KEYS_BF16
from gta_cuda.decode_bf16 import ROWS as ROWS_BF16
from gta_cuda.decode_bf16 import make_decode as make_decode_bf16
from gta_cuda.decode_bf16 import most_warps, rows_per_block, shared_bytes
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, MOST_SHARED, NUMBER, STRIDES, Kernel, widths_key
from gta_cuda.merge import cut, make_merge
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array, array_module

# Blocks of a decode that a multiprocessor is to have, by what a block serves. On an H200, three blocks of the bfloat16
# decode are 2 % slower than two, and two of the float32 decode 4 % slower than three.
BLOCKS = {"float32": 3, "bfloat16": 2, "bfloat16, 16 rows": 3}
LEAST_STEPS, MOST_WAVES = 8, 8


@lru_cache(maxsize=64)
def decode_kernel(d_k: int, d_v: int, wide: bool, rows: int, warps: int = 4) -> Kernel:
    """The kernel of the float32 decode."""
    arguments = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 8
    key = widths_key("decode", d_k, d_v, wide, f"{rows}x{warps}")
    return Kernel("decode", make_decode(d_k, d_v, wide, rows, warps), arguments, 32 * warps, 2, key=key)


@lru_cache(maxsize=64)
def merge_kernel(d_v: int, to_bf16: bool, threads: int = 128) -> Kernel:
    """The kernel that combines the splits of a decode."""
    z = HALVES if to_bf16 else FLOATS
    return Kernel(
        "merge to bf16" if to_bf16 else "merge",
        make_merge(d_v, to_bf16, threads),
        (FLOATS, FLOATS, z, FLOATS, COUNT, COUNT, COUNT, COUNT),
        threads,
        key=f"{'merge_bf16' if to_bf16 else 'merge'}-{d_v}-{threads}",
    )


@lru_cache(maxsize=64)
def decode_bf16_kernel(d_k: int, d_v: int, wide: bool, warps: int, to_bf16: bool, rows: int = ROWS_BF16) -> Kernel:
    """The kernel of the bfloat16 decode; its sums, and the z of a split, are float32."""
    arguments = (HALVES,) * 3 + (HALVES if to_bf16 else FLOATS, FLOATS, INTS, STRIDES, NUMBER) + (COUNT,) * 8
    function = make_decode_bf16(d_k, d_v, wide, warps, to_bf16, rows)
    name = "decode_bf16 to z" if to_bf16 else "decode_bf16"
    size = warps if rows == ROWS_BF16 else f"{warps}x{rows}"
    key = widths_key("decode_bf16", d_k, d_v, wide, size, *(["z"] if to_bf16 else []))
    shared = shared_bytes(d_k, d_v, warps)
    return Kernel(
        name,
        function,
        arguments,
        32 * warps,
        max(1, (3 if rows == ROWS_BF16 else 2) * 4 // warps),
        tensor_cores=True,
        key=key,
        shared=shared if shared > MOST_SHARED else 0,
    )


class Decode(NamedTuple):
    """A decode that is ready to be launched: everything that does not depend on the addresses of the arrays.

    It is made once for arrays of certain shapes, strides and dtype, by :func:`prepare`, and called with such arrays.
    """

    new: Callable[..., Array]  # of the arrays' library: makes an array of a shape and dtype
    new_parts: Callable[[int], Any]  # makes memory for that many float32, which only the kernels see
    kernel: Kernel
    grid: tuple[int, int, int]
    constants: tuple[Any, ...]  # the kernel's arguments after the addresses
    merge: Kernel | None  # None if there is one split
    merge_grid: tuple[int, int, int]
    merge_constants: tuple[int, ...]
    sizes: tuple[int, int, int]  # batch, queries and keys
    z_shape: tuple[int, ...]
    dtype: Any
    parts: tuple[int, int]  # elements of the z and lse of all splits together

    def __call__(self, q: Array, k: Array, v: Array, mask: Mask) -> tuple[Array, Array]:
        """Compute z (B, n_q, N_q, d_v), in the dtype of q, and lse (B, n_q, N_q), in float32.

        `mask` has the `causal` of :func:`prepare`; its bounds may be any.
        """
        pointer, merge = arrays.pointer, self.merge
        z, lse = self.new(self.z_shape, self.dtype), self.new(self.z_shape[:3], np.float32)
        stream = arrays.current_stream(q)
        bounds = arrays.bounds(mask, *self.sizes, q, stream)
        if merge is None:
            to_z, to_lse = pointer(z), pointer(lse)
        else:
            of_z, of_lse = self.parts
            parts = self.new_parts(of_z + of_lse)
            to_z = parts.ptr if hasattr(parts, "ptr") else pointer(parts)
            to_lse = to_z + 4 * of_z if isinstance(to_z, int) else to_z[of_z:]
        inputs = pointer(q), pointer(k), pointer(v)
        self.kernel.launch(self.grid, stream, *inputs, to_z, to_lse, pointer(bounds), *self.constants)
        if merge is not None:
            merge.launch(self.merge_grid, stream, to_z, to_lse, pointer(z), pointer(lse), *self.merge_constants)
        return z, lse


def prepare(
    q: Array, k: Array, v: Array, causal: bool, scale: float, splits: int | None = None, warps: int = 4
) -> Decode:
    """Get a decode ready for arrays with the shapes, strides, dtype and alignment of these; see :func:`decode`."""
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    maps_k, maps_v = n_q // n_k, n_q // n_v
    maps = math.gcd(maps_k, maps_v)
    strides, wide = arrays.layout(q, k, v)
    in_bf16 = q.dtype.name == "bfloat16"
    if in_bf16:
        rows, warps = (
            rows_per_block(maps * n_queries, d_k, d_v),
            warps if warps > 4 else min(warps, most_warps(d_k, d_v)),
        )
        step, shared = warps * KEYS_BF16, shared_bytes(d_k, d_v, warps)
        blocks = BLOCKS["bfloat16" if rows == ROWS_BF16 else "bfloat16, 16 rows"]
    else:
        rows = balanced(maps * n_queries, most_rows(d_k, d_v))
        step, shared, blocks = warps * step_keys(d_k, d_v), 0, BLOCKS["float32"]
    groups = batch * (n_q // maps) * -(-maps * n_queries // rows)
    if splits is None:
        splits = choose_splits(groups, n_keys, step, arrays.resident(q, blocks, shared))
    if in_bf16:
        kernel = decode_bf16_kernel(d_k, d_v, wide, warps, splits == 1, rows)
    else:
        kernel = decode_kernel(d_k, d_v, wide, rows, warps)
    n_rows, threads = batch * n_q * n_queries, 32 * min(warps, 4)
    quads, lanes = cut(d_v, splits, threads)
    numbers = batch, n_q // maps, maps_k // maps, maps_v // maps, maps, n_queries, causal, n_rows
    xp = array_module(q)
    return Decode(
        xp.empty,
        partial(xp.empty, dtype=np.float32) if isinstance(q, np.ndarray) else lambda n: xp.cuda.alloc(4 * n),
        kernel,
        (batch * (n_q // maps), -(-maps * n_queries // rows), splits),
        (strides, scale, *numbers),
        merge_kernel(d_v, in_bf16, threads) if splits > 1 else None,
        (n_rows, -(-d_v // (4 * quads)), 1),
        (n_rows, splits, quads, lanes),
        (batch, n_queries, n_keys),
        (batch, n_q, n_queries, d_v),
        q.dtype,
        (splits * n_rows * d_v, splits * n_rows),
    )


def decode(
    q: Array, k: Array, v: Array, mask: Mask, scale: float, splits: int | None = None, warps: int = 4
) -> tuple[Array, Array]:
    """Compute the same as :func:`forward` and :func:`forward_bf16`, for few queries.

    splits: number of blocks that share a sequence's keys; by default it depends on the size of the GPU.
    warps: most warps per block; default 4.
    """
    return prepare(q, k, v, mask.causal, scale, splits, warps)(q, k, v, mask)


MOST_PREPARED = 256
_prepared: dict[tuple[Any, ...], Decode] = {}


def signature(q: Any, k: Any, v: Any, causal: bool, scale: float) -> tuple[Any, ...] | None:
    """What decides a decode of these arrays, as the key of :func:`prepared`; None for NumPy arrays."""
    if type(q) is np.ndarray:
        return None
    aligned = not (q.data.ptr | k.data.ptr | v.data.ptr) & 15
    return q.shape, k.shape, v.shape, q.strides, k.strides, v.strides, q.dtype, causal, scale, aligned


def prepared(key: tuple[Any, ...] | None) -> Decode | None:
    """The decode that was remembered under this key."""
    return _prepared.get(key)  # type: ignore[arg-type]


def remember(key: tuple[Any, ...], ready: Decode) -> None:
    """Keep a decode for later calls; the last MOST_PREPARED are kept."""
    if len(_prepared) >= MOST_PREPARED:
        _prepared.pop(next(iter(_prepared)), None)  # the oldest
    _prepared[key] = ready


def balanced(total: int, most: int) -> int:
    """Rows per block such that as few blocks as possible share them evenly: 10 rows with at most 8 give 5 and 5."""
    return -(-total // -(-total // most))


def choose_splits(groups: int, n_keys: int, step: int, places: int) -> int:
    """How many splits the keys of a sequence are cut into.

    All blocks together, `groups` per split, should fill the `places` of the GPU, one to MOST_WAVES times: the fewest
    times that leave less than a tenth of the places empty. A split has at least two steps of `step` keys, and with
    fewer than LEAST_STEPS steps a merge would take longer than it saves.
    """
    if n_keys < LEAST_STEPS * step:
        return 1
    most, best, best_use = n_keys // (2 * step), 1, 0.0
    for waves in range(1, MOST_WAVES + 1):
        splits = max(1, min(most, waves * places // groups))
        use = groups * splits / (-(-groups * splits // places) * places)
        if use > best_use:
            best, best_use = splits, use
        if best_use >= 0.9:
            break
    return best
