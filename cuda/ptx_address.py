"""Instructions that take an address instead of an array and an index, as intrinsics; and barriers of some warps.

A kernel computes an address once per thread, in bytes, and adds constants to it. A constant becomes part of the
instruction that reads or writes, so that the address of each access costs nothing. An address in shared memory has 32
bits; one in global memory has 64. Beside the address, each function takes the array to which it belongs, which
``emulated_address`` needs.
"""

# Numba calls these functions with the objects of its compiler, which have no types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from gta_cuda.ptx import INT32, INT64, VECTOR4, _assembly, _copy16, _ldmatrix, _pointer


@intrinsic
def shared_address(typing, shared):
    """The address of a shared array."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.addrspacecast(data, data.type.pointee.as_pointer(3)), INT32)

    return types.int32(shared), generate


@intrinsic
def global_address(typing, array, index):
    """The address of element `index` of an array in global memory."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        return builder.ptrtoint(builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(1)), INT64)

    return types.int64(array, index), generate


@intrinsic
def cp_async16_at(typing, shared, to, array, source, valid):
    """Start copying 16 bytes to address `to` of shared memory. If not `valid`, write zeros and read nothing."""

    def generate(context, builder, signature, arguments):
        _copy16(builder, arguments[1], arguments[3], arguments[4])
        return context.get_dummy_value()

    return types.void(shared, types.int32, array, types.int64, types.boolean), generate


def _ldmatrix_at(trans: str) -> Any:
    @intrinsic
    def function(typing, shared, at):
        def generate(context, builder, signature, arguments):
            return _ldmatrix(context, builder, signature, arguments[1], trans)

        return types.UniTuple(types.uint32, 4)(shared, types.int32), generate

    return function


# the same as ldmatrix4 of ``ptx``, except for the address; the second form transposes each matrix first
ldmatrix4_at, ldmatrix4_t_at = _ldmatrix_at(""), _ldmatrix_at(".trans")


def _vector(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """A pointer to four float32 at address arguments[1] plus arguments[2]; a constant goes into the instruction."""
    start = builder.inttoptr(arguments[1], ir.IntType(8).as_pointer(3))
    offset = context.cast(builder, arguments[2], signature.args[2], types.int64)
    return builder.bitcast(builder.gep(start, [offset], inbounds=True), VECTOR4.as_pointer(3))


@intrinsic
def ld4_at(typing, shared, at, offset):
    """Read four float32 from shared memory, `offset` bytes after `at`, at a multiple of 16 bytes."""

    def generate(context, builder, signature, arguments):
        vector = builder.load(_vector(context, builder, signature, arguments), align=16)
        values = [builder.extract_element(vector, INT32(i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, 4)(shared, types.int32, offset), generate


@intrinsic
def st4_at(typing, shared, at, offset, a, b, c, d):
    """Write four float32 to shared memory, `offset` bytes after `at`, at a multiple of 16 bytes."""
    value = types.float32

    def generate(context, builder, signature, arguments):
        vector = ir.Constant(VECTOR4, ir.Undefined)
        for i in range(4):
            vector = builder.insert_element(vector, arguments[3 + i], INT32(i))
        builder.store(vector, _vector(context, builder, signature, arguments)).align = 16
        return context.get_dummy_value()

    return types.void(shared, types.int32, offset, value, value, value, value), generate


@intrinsic
def thread_again(typing):
    """The number of the thread, read anew: what is computed from it needs no register before this point."""

    def generate(context, builder, signature, arguments):
        return _assembly(builder, INT32, [], "mov.u32 $0,%tid.x;", "=r", effect=True)

    return types.int32(), generate


@intrinsic
def group_sync(typing, number, threads):
    """Wait for a group of `threads` threads, whole warps, which pass the same number from 1 to 15.

    All of them then see what any of them wrote to shared memory, as with ``cuda.syncthreads`` for a whole block.
    """

    def generate(context, builder, signature, arguments):
        operands = [
            context.cast(builder, x, kind, types.int32) for x, kind in zip(arguments, signature.args, strict=True)
        ]
        _assembly(builder, ir.VoidType(), operands, "bar.sync $0,$1;", "r,r,~{memory}", effect=True)
        return context.get_dummy_value()

    return types.void(number, threads), generate
