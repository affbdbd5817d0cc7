"""Calls that are ready to run: everything that follows from shapes, strides and the mask, worked out once.

A kernel reads one record of whole numbers, its Call, followed by the Rows of its arrays. Here the record is filled in
except for the arrays' addresses. Calls of the same shapes, strides, mask and scale share what is prepared here.
"""

from __future__ import annotations

import math
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import types

from gta_ref.core.cpu import backward, decode, forward, forward_bf16, matrix_units, merging
from gta_ref.core.cpu.compiling import compiled, entry, once
from gta_ref.core.cpu.lanes import ROWS, VECTOR_BYTES
from gta_ref.core.cpu.llvm import LOG2E
from gta_ref.core.cpu.memory import address
from gta_ref.core.cpu.pairs import NUMBERS
from gta_ref.core.cpu.plan import FEW, KEYS, costs, share, share_units
from gta_ref.core.cpu.plan import plan as make_plan
from gta_ref.core.cpu.softmax import SLACK
from gta_ref.core.cpu.tiles import Rows
from gta_ref.core.mask import Mask
from gta_ref.ops.arrays import Array

# for each dtype: the type in which kernels take its numbers (see turning.py), and the type to compute in
STORAGE = {
    "float32": (types.float32, types.float32),
    "float64": (types.float64, types.float64),
    "float16": (types.uint16, types.float32),
    "bfloat16": (types.int16, types.float32),
}


SCALARS = 0, 1  # a kernel's arguments `stored` and `one`, whose types in its signature say how it computes
SHARED_COPIES = 16  # most workers that each hold a dk and dv of their own


class Arithmetic:
    """How a dtype is computed: the types in which kernels take its numbers and compute, and the precision."""

    def __init__(self, dtype: np.dtype) -> None:
        self.storage, self.real = STORAGE[dtype.name]
        self.dtype = np.dtype(np.float64 if self.real == types.float64 else np.float32)
        self.size = self.dtype.itemsize

    def in_place(self, x: Array) -> bool:
        """Whether the numbers of a row are adjacent and need not be widened."""
        return x.itemsize == self.size and (x.strides[3] == self.size or x.shape[3] <= 1)


@cache
def arithmetic(dtype: np.dtype) -> Arithmetic:
    """The Arithmetic of a dtype."""
    return Arithmetic(dtype)


def numbers(scale: float, real: np.dtype) -> Array:
    """The numbers that a forward needs: factor, unit, slack, unit · ln 2, the lowest number; see softmax.py.

    Q is multiplied by factor, at most 1/2 · scale · log₂e and at most 1, so that no score overflows where the
    definition's does not.
    """
    c = scale * LOG2E
    exponent = max(1, math.ceil(math.log2(c)))
    unit = 2.0**exponent
    found: Array = np.array([c / unit, unit, SLACK / unit, unit / LOG2E, np.finfo(real).min, scale], real)
    return found


def offsets(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Where each part of a worker's scratch memory begins, and its size; parts begin at multiples of 128 bytes."""
    found, at = {}, 0
    for name, size in sizes.items():
        found[name] = at
        at += -(-size // 128) * 128
    return found, at


class Forward:
    """A forward that lacks only the addresses of its arrays.

    `unit` is the form of the matrix unit that computes its products (see matrix_units.py), or None.
    """

    def __init__(self, q: Array, k: Array, v: Array, mask: Mask, scale: float, unit: str | None = None) -> None:
        self.of = of = arithmetic(q.dtype)
        self.cut = cut = make_plan(q, k, v, mask)
        self.scale = scale
        batch, n_q, n_queries, d_k = q.shape
        d_v, size, rows = v.shape[3], of.size, cut.sizes.rows
        self.z_shape, self.lse_shape = (batch, n_q, n_queries, d_v), (batch, n_q, n_queries)
        self.by_row = batch * n_q * n_queries * size  # bytes of m and of 1/l
        self.slots = cut.slots * rows  # rows of all slots; each has O, m and l
        self.few = rows <= FEW
        self.work = cut.cost * cut.sizes.maps * (d_k + d_v)
        # the kernel's arguments between its call and a worker's own
        self.scalars: tuple[int, ...] = SCALARS
        module: Any
        if self.few:  # numbers are widened as they are loaded
            name, module = "decode", decode
            direct = [x.strides[3] == x.itemsize or x.shape[3] <= 1 for x in (k, v)]
        elif unit is None:
            name, module = "forward", forward
            direct = [of.in_place(k), of.in_place(v) and d_v % ROWS == 0]
        else:  # V is turned, and rows of K that are not whole tiles are copied
            name, module = f"forward_bf16_{unit}", forward_bf16
            direct = [k.strides[3] == k.itemsize and d_k % NUMBERS == 0, False]
            self.scalars = (*SCALARS, address(_CONFIGURATION))
        self.kernel = entry(kernel(name, q.dtype))
        self.merge = entry(kernel("merge", of.dtype)) if cut.slots else None
        places, self.scratch = offsets(module.scratch(rows, KEYS, d_k, d_v, size))
        self.scratch = max(self.scratch, -(-(d_v + cut.slots + 1) * size // 128) * 128)  # merging needs the second
        self.numbers = numbers(scale, of.dtype)
        call = forward.Call(
            items=address(cut.pieces),
            q_start=address(cut.q_start),
            by_row=n_queries * size,
            lse=0,
            m=0,
            inverse=0,
            part_o=0,
            part_m=0,
            part_l=0,
            numbers=address(self.numbers),
            n_q=n_q,
            maps=cut.sizes.maps,
            maps_per_k=cut.sizes.maps_per_k,
            maps_per_v=cut.sizes.maps_per_v,
            rows=rows,
            keys=KEYS,
            d_k=d_k,
            d_v=d_v,
            size=size,
            k_direct=int(direct[0]),
            v_direct=int(direct[1]),
            **places,
        )
        strides = q.strides, k.strides, v.strides, packed(self.z_shape, size)
        self.records = Records([*call, *(number for one in strides for number in (0, *one))])
        self.merges = address(cut.merges), len(cut.merges)
        self._shares: dict[int, list[tuple[int, int]]] = {}
        self.like = tuple((x.dtype, x.shape, x.strides) for x in (q, k, v))

    def shares(self, workers: int) -> list[tuple[int, int]]:
        """For each worker, the address of the indices of its pieces, and their number."""
        if workers not in self._shares:
            self._shares[workers] = [(address(x), len(x)) for x in self.cut.pieces_of(workers)]
        return self._shares[workers]

    def fill(
        self, record: memoryview, arrays: tuple[Array, ...], lse: Array, saved: Array, parts: Array | None
    ) -> None:
        """Enter the addresses of q, k, v and z, of lse, of m and 1/l (2, …), and of the slots' O, m and l."""
        record[_Q], record[_K], record[_V], record[_Z] = map(address, arrays)
        at = address(saved)
        record[_LSE], record[_LSE + 1], record[_LSE + 2] = address(lse), at, at + self.by_row
        if parts is not None:
            at, step = address(parts), self.slots * self.of.size
            width = self.z_shape[3]
            record[_LSE + 3], record[_LSE + 4], record[_LSE + 5] = at, at + step * width, at + step * (width + 1)

    @cached_property
    def backward(self) -> Backward:
        """The backward of this forward."""
        return Backward(self)


class Backward:
    """A backward that lacks only the addresses of its arrays, and the strides of dz and dlse."""

    def __init__(self, ready: Forward) -> None:
        self.of, self.cut = ready.of, ready.cut
        (q_dtype, q_shape, q_strides), (_, k_shape, k_strides), (_, v_shape, v_strides) = ready.like
        (_, n_q, n_queries, d_k), (_, n_k, n_keys, _), (_, n_v, _, d_v) = q_shape, k_shape, v_shape
        of, cut, size = self.of, self.cut, self.of.size
        self.kernel = entry(kernel("backward", q_dtype))
        places, self.scratch = offsets(backward.scratch(cut.sizes.rows, d_k, d_v, size))
        self.k_shape, self.v_shape = ((*shape[:3], padded(shape[3], size)) for shape in (k_shape, v_shape))
        self.work = cut.cost * cut.sizes.maps * (3 * d_k + 2 * d_v)
        self.none = np.zeros(1, of.dtype)  # as dlse, with strides of 0
        in_place = [of.size == q_dtype.itemsize and strides[3] == size for strides in (k_strides, v_strides)]
        call = backward.Call(
            items=address(cut.items),
            q_start=address(cut.q_start),
            by_row=n_queries * size,
            m=0,
            inverse=0,
            numbers=address(ready.numbers),
            n_q=n_q,
            n_k=n_k,
            n_v=n_v,
            n_keys=n_keys,
            maps=cut.sizes.maps,
            maps_per_k=cut.sizes.maps_per_k,
            maps_per_v=cut.sizes.maps_per_v,
            d_k=d_k,
            d_v=d_v,
            k_width=self.k_shape[3],
            v_width=self.v_shape[3],
            size=size,
            k_direct=int(in_place[0] and d_k % ROWS == 0),
            v_direct=int(in_place[1]),
            few=int(ready.few),
            **places,
        )
        nothing = (0, 0, 0, 0)
        strides = (
            q_strides, k_strides, v_strides, nothing, packed(ready.z_shape, size), nothing, packed(q_shape, size),
        )  # fmt: skip
        self.records = Records([*call, *(number for one in strides for number in (0, *one))])
        self._shares: dict[int, tuple[list[tuple[int, int]], bool, Any]] = {}

    def shares(self, workers: int) -> tuple[list[tuple[int, int]], bool, Any]:
        """For each worker, the address and number of its items' indices; whether all may add to one dk and dv."""
        if workers not in self._shares:
            found = share_units(self.cut, workers)
            alone = found is not None
            if found is None:
                found = share(costs(self.cut.items), min(workers, SHARED_COPIES))
            self._shares.setdefault(workers, ([(address(x), len(x)) for x in found], alone, found))
        return self._shares[workers]

    def fill(self, record: memoryview, arrays: tuple[Array, ...], m: Array, inverse: Array, dlse: Array | None) -> None:
        """Enter the addresses of q, k, v, dz, z and dq, of m and 1/l, and what is known of dz and dlse only now."""
        first, rows = len(backward.Call._fields), len(Rows._fields)
        q, k, v, dz, z, dq = arrays
        for i, x in enumerate((q, k, v, dz, z, self.none if dlse is None else dlse, dq)):
            record[first + i * rows] = address(x)
        place = first + 3 * rows + 1
        record[place], record[place + 1], record[place + 2], record[place + 3] = dz.strides
        place = first + 5 * rows + 1
        record[place], record[place + 1], record[place + 2] = (0, 0, 0) if dlse is None else dlse.strides
        record[_M], record[_M + 1] = address(m), address(inverse)


_CONFIGURATION = matrix_units.configuration()
_Q, _K, _V, _Z = (place // 8 for place in (forward.Q, forward.K, forward.V, forward.Z))
_LSE, _M = forward.Call._fields.index("lse"), backward.Call._fields.index("m")


class Records:
    """Copies of a record, lent to one call at a time; several threads, or a signal handler, may each hold one."""

    def __init__(self, record: list[int]) -> None:
        self._record = np.array(record, np.int64)
        self._free: list[tuple[memoryview, int]] = []

    def take(self) -> tuple[memoryview, int]:
        """A record, to be filled in, and its address."""
        try:
            return self._free.pop()
        except IndexError:
            found = self._record.copy()
            return found.data, address(found)

    def give_back(self, record: tuple[memoryview, int]) -> None:
        """Return a record."""
        self._free.append(record)


def packed(shape: tuple[int, ...], size: int) -> tuple[int, int, int, int]:
    """The strides of a new array of four dimensions."""
    _, heads, positions, width = shape
    return heads * positions * width * size, positions * width * size, width * size, size


def padded(width: int, size: int) -> int:
    """The width rounded up to whole vectors of numbers of `size` bytes."""
    lanes = VECTOR_BYTES // size
    return -(-width // lanes) * lanes


@once
def kernel(name: str, dtype: np.dtype) -> Any:
    """The compiled kernel of this name for a dtype."""
    storage, real = STORAGE[dtype.name]
    kernels: dict[str, tuple[Any, Any]] = {
        "forward": (forward.forward, forward.signature(storage, real)),
        "decode": (decode.decode, forward.signature(storage, real)),
        "merge": (merging.merge, merging.signature(real)),
        "backward": (backward.backward, backward.signature(storage, real)),
    }
    for form in matrix_units.FORMS:
        kernels[f"forward_bf16_{form}"] = forward_bf16.forward_bf16, forward_bf16.signature(form, real)
    function, signature = kernels[name]
    return compiled(function, signature, strict=True)
