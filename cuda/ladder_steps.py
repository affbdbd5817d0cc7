"""The kernels of the ladders that the engine does not use, and their launches; see ``ladder``."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from gta_cuda import (
    arrays,
    decode_step1,
    decode_step2,
    decode_step3,
    decode_step4,
    launch,
    step1_naive,
    step2_tiles,
    step3_online,
    step5_mma,
)
from gta_cuda.kernels import COUNT, FLOATS, HALVES, INTS, NUMBER, STRIDES, Kernel
from gta_cuda.merge import cut
from gta_ref.core import Mask
from gta_ref.ops.arrays import Array, array_module

ARGUMENTS = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 5
ARGUMENTS_BF16 = (HALVES,) * 4 + (FLOATS, INTS, STRIDES, NUMBER) + (COUNT,) * 5
ARGUMENTS_DECODE = (FLOATS,) * 5 + (INTS, STRIDES, NUMBER) + (COUNT,) * 4
FIRST = {"naive": step1_naive, "tiles": step2_tiles, "online": step3_online}
MMA = step5_mma.STEPS
DECODE = {
    "decode_naive": decode_step1,
    "decode_split": decode_step2,
    "decode_rows": decode_step3,
    "decode_wide": decode_step4,
}
SPLITS = 2  # blocks of a decode that a multiprocessor is to have


def kernels(d_k: int, d_v: int, rows: int) -> list[Kernel]:
    """All kernels of this file; those of the decode for `rows` maps that share both heads."""
    first = [first_step(name, d_k, d_v) for name in FIRST]
    mma = [mma_step(name, d_k, d_v) for name in MMA]
    return [*first, *mma, *(decode_step(name, d_k, d_v, rows) for name in DECODE), merge_in_order(d_v)]


@lru_cache(maxsize=32)
def first_step(name: str, d_k: int, d_v: int, **measures: int) -> Kernel:
    """One of steps 1 to 3, made once per combination of widths; it is compiled when it is first launched."""
    function = FIRST[name].make_forward(d_k, d_v, **measures)
    title = f"step {1 + list(FIRST).index(name)}: {name}"
    key = _key(name, {"k": d_k, "v": d_v, **measures})
    return Kernel(title, function, ARGUMENTS, measures.get("threads", FIRST[name].THREADS), key=key)


@lru_cache(maxsize=32)
def mma_step(name: str, d_k: int, d_v: int, rows: int = step5_mma.ROWS, keys: int = step5_mma.KEYS) -> Kernel:
    """One of steps 5a to 5d, with `rows` queries per block and `keys` keys per step."""
    function = step5_mma.make_forward(d_k, d_v, MMA[name], rows, keys)
    title = f"step 5{'abcd'[list(MMA).index(name)]}: {name}"
    key = _key(name, {"k": d_k, "v": d_v, "rows": rows, "keys": keys})
    return Kernel(title, function, ARGUMENTS_BF16, 2 * rows, tensor_cores=True, key=key)


@lru_cache(maxsize=32)
def decode_step(name: str, d_k: int, d_v: int, rows: int, **measures: int) -> Kernel:
    """One of steps 1 to 4 of the decode's ladder; `rows` maps share both heads."""
    number = 1 + list(DECODE).index(name)
    sizes = (d_k, d_v, rows) if number > 2 else (d_k, d_v)
    function = DECODE[name].make_decode(*sizes, **measures)
    key = _key(name, {"k": d_k, "v": d_v, "rows": rows, **measures})
    threads = measures.get("threads", DECODE[name].THREADS)
    return Kernel(f"decode step {number}: {name[7:]}", function, ARGUMENTS_DECODE, threads, key=key)


@lru_cache(maxsize=32)
def merge_in_order(d_v: int, threads: int = decode_step2.THREADS) -> Kernel:
    """The merge of steps 2 and 3 of the decode's ladder."""
    arguments = (FLOATS,) * 4 + (COUNT,) * 2
    key = _key("merge_in_order", {"v": d_v, "threads": threads})
    return Kernel("decode step 2: merge", decode_step2.make_merge(d_v, threads), arguments, threads, key=key)


def _key(name: str, measures: dict[str, int]) -> str:
    return "-".join([name, *(f"{what}{size}" for what, size in sorted(measures.items()))])


def run_first(
    name: str, q: Array, k: Array, v: Array, mask: Mask, scale: float, **measures: int
) -> tuple[Array, Array]:
    """Compute z and lse in float32 by one of the first three steps.

    measures: `threads` per block and, in steps 2 and 3, `keys` per tile; by default those of the step's file.
    """
    kernel = first_step(name, q.shape[3], v.shape[3], **measures)
    return _launch(kernel, kernel.threads, q, k, v, mask, scale, arrays.layout(q, k, v)[0])


def run_mma(name: str, q: Array, k: Array, v: Array, mask: Mask, scale: float, **measures: int) -> tuple[Array, Array]:
    """Compute z and lse in bfloat16 by one of steps 5a to 5d.

    measures: `rows` and `keys` of :func:`mma_step`.

    Raises
    ------
    ValueError
        If rows do not begin at multiples of 16 bytes, or for the widths that ``step5_mma`` refuses.
    """
    kernel = mma_step(name, q.shape[3], v.shape[3], **measures)
    return _launch(kernel, kernel.threads // 2, q, k, v, mask, scale, _wide(name, q, k, v))


def _wide(name: str, q: Array, k: Array, v: Array) -> tuple[int, ...]:
    strides, wide = arrays.layout(q, k, v)
    if not wide:
        raise ValueError(f"rows that are not at multiples of 16 bytes; step {name!r} needs rows that are")
    return strides


def _launch(
    kernel: Kernel, rows: int, q: Array, k: Array, v: Array, mask: Mask, scale: float, strides: tuple[int, ...]
) -> tuple[Array, Array]:
    xp = array_module(q)
    (batch, n_q, n_queries, _), (_, n_v, n_keys, d_v) = q.shape, v.shape
    z, lse = xp.empty((batch, n_q, n_queries, d_v), q.dtype), xp.empty((batch, n_q, n_queries), np.float32)
    stream = arrays.current_stream(q)
    addresses = map(arrays.pointer, (q, k, v, z, lse, arrays.bounds(mask, batch, n_queries, n_keys, q, stream)))
    numbers = n_q, n_q // k.shape[1], n_q // n_v, n_queries, mask.causal
    kernel.launch((batch * n_q, -(-n_queries // rows), 1), stream, *addresses, strides, scale, *numbers)
    return z, lse


def run_decode(
    name: str,
    q: Array,
    k: Array,
    v: Array,
    mask: Mask,
    scale: float,
    splits: int | None = None,
    **measures: int,
) -> tuple[Array, Array]:
    """Compute z and lse of one query per map, in float32, by one of steps 1 to 4 of the decode's ladder.

    splits: blocks that share the keys of a sequence, from step 2 on; by default SPLITS per multiprocessor.
    measures: `threads` per block and, in step 4, `keys` per tile.

    Raises
    ------
    ValueError
        If there is more than one query, or for rows or widths that a step does not take.
    """
    xp = array_module(q)
    (batch, n_q, n_queries, d_k), n_k, (_, n_v, n_keys, d_v) = q.shape, k.shape[1], v.shape
    if n_queries != 1:
        raise ValueError(f"{n_queries} queries per map; the decode's ladder takes one")
    rows = math.gcd(n_q // n_k, n_q // n_v)
    strides = _wide(name, q, k, v) if name == "decode_wide" else arrays.layout(q, k, v)[0]
    kernel = decode_step(name, d_k, d_v, rows, **measures)
    if name == "decode_naive":
        splits = 1
    elif splits is None:
        splits = max(1, min(SPLITS * arrays.multiprocessors(q), n_keys))
    z, lse = xp.empty((batch, n_q, 1, d_v), np.float32), xp.empty((batch, n_q, 1), np.float32)
    parts = (z, lse) if splits == 1 else tuple(xp.empty((splits, *x.shape), np.float32) for x in (z, lse))
    stream = arrays.current_stream(q)
    bounds = arrays.bounds(mask, batch, 1, n_keys, q, stream)
    shared = name in ("decode_rows", "decode_wide")
    grid = (batch * n_q // (rows if shared else 1), 1, splits)
    numbers = n_q, n_q // n_k, n_q // n_v, mask.causal
    kernel.launch(grid, stream, *map(arrays.pointer, (q, k, v, *parts, bounds)), strides, scale, *numbers)
    if splits > 1:
        merge(name, (*parts, z, lse), stream)
    return z, lse


def merge(name: str, given: tuple[Any, ...], stream: int) -> None:
    """Combine the splits: in steps 2 and 3 one after the other, from step 4 on by the engine's kernel.

    given: z (splits, B, n_q, 1, d_v) and lse (splits, B, n_q, 1) of the splits, then the z and lse to be written.
    """
    splits, n_rows, d_v = len(given[0]), given[3].size, given[2].shape[3]
    if name != "decode_wide":
        merge_in_order(d_v).launch((n_rows, 1, 1), stream, *map(arrays.pointer, given), n_rows, splits)
        return
    kernel = launch.merge_kernel(d_v, False, 32 if isinstance(given[0], np.ndarray) else 128)
    quads, lanes = cut(d_v, splits, kernel.threads)
    grid = (n_rows, -(-d_v // (4 * quads)), 1)
    kernel.launch(grid, stream, *map(arrays.pointer, given), n_rows, splits, quads, lanes)
