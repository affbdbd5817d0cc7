"""Memory by its address: where an array lies, and how a kernel reads the record of a call, and single numbers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from gta_ref.core.cpu.lanes import I64

_HEAD = object.__basicsize__  # bytes of a Python object before its own fields


def _first_field(x: Any) -> int:
    """The first field of NumPy's array object, which is the address of its numbers."""
    return ctypes.c_int64.from_address(id(x) + _HEAD).value


def address(x: Any) -> int:
    """The address of an array's first number. Reading the field takes 0.1 µs, and ``x.ctypes.data`` 1 µs."""
    return _first_field(x) if _FIELD_IS_FIRST else int(x.ctypes.data)


_sample = np.arange(3)[1:]
_FIELD_IS_FIRST = _first_field(_sample) == _sample.ctypes.data


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
