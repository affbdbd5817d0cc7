"""Memory by its address: where an array lies, scratch memory, and how a kernel reads a call's record and numbers."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from gta_ref.core.cpu.lanes import I64

_HEAD = object.__basicsize__  # bytes of a Python object before its own fields
_int64_at = ctypes.c_int64.from_address


def address(x: Any) -> int:
    """The address of an array's first number, which is the first field of NumPy's array object.

    Reading the field takes 0.1 µs, and ``x.ctypes.data`` 1 µs.
    """
    return _int64_at(id(x) + _HEAD).value


_sample = np.arange(3)[1:]
if address(_sample) != _sample.ctypes.data:  # this NumPy, or this Python, has another layout

    def address(x: Any) -> int:
        """The address of an array's first number."""
        return int(x.ctypes.data)


def scratch(size: int) -> tuple[np.ndarray, int]:
    """Scratch memory of this thread for `size` bytes, kept for the next call and not cleared.

    Returns
    -------
    memory : (at least size + 64,), uint8
        To be held while the address is used, because a signal handler may replace it by a larger one.
    at : int
        An address in it, at a multiple of 64, from which on there are `size` bytes.
    """
    found: tuple[np.ndarray, int] | None = getattr(_local, "scratch", None)
    if found is None or len(found[0]) < size + 64:
        memory = np.empty(size + 64, np.uint8)
        found = _local.scratch = memory, -(-address(memory) // 64) * 64
    return found


_local = threading.local()


def reader(record: Any) -> Any:
    """The function ``read(address)`` of a NamedTuple class of whole numbers, which lie at the address as int64."""
    kind = types.NamedUniTuple(types.int64, len(record._fields), record)

    @intrinsic
    def read(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first = builder.inttoptr(args[0], I64.as_pointer())
            values = [builder.load(builder.gep(first, [I64(i)])) for i in range(len(record._fields))]
            return context.make_tuple(builder, signature.return_type, values)

        return kind(types.intp), codegen

    return read


@intrinsic
def get(typingctx: Any, address: Any, like: Any) -> Any:
    """The number at an address, of the type of `like`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(like)
        return builder.load(builder.inttoptr(args[0], kind.as_pointer()))

    return like(types.intp, like), codegen


@intrinsic
def put(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a number, in its type, to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


@intrinsic
def round_up(typingctx: Any, number: Any, step: Any) -> Any:
    """The smallest multiple of `step` that is at least `number`, which is not negative."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, step = args
        whole = builder.udiv(builder.add(number, builder.sub(step, I64(1))), step)
        return builder.mul(whole, step)

    return types.int64(types.int64, types.int64), codegen
