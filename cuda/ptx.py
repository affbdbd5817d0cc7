"""The instructions that Numba CUDA does not offer, as intrinsics that emit PTX or a wide load.

Each docstring describes the effect for one thread, or for the 32 threads of a warp together. ``emulated`` has a Python
version of each function. An array is a pointer or a flat (1-D) array, and an index counts elements. The names of the
instructions are those of NVIDIA's PTX ISA, whose documentation draws the layouts of the fragments.
"""

# Numba calls these functions with the objects of its compiler, which have no types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR4 = ir.VectorType(FLOAT, 4)


def _assembly(
    builder: Any, result: Any, arguments: list, text: str, constraints: str, *, effect: bool = False, warp: bool = False
) -> Any:
    """Call inline PTX. With `effect`, it is never removed or moved; with `warp`, all threads of the warp execute it."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    attributes = ("convergent",) if effect or warp else ()
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effect), arguments, attrs=attributes)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, index_kind: Any) -> Any:
    data = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [context.cast(builder, index, index_kind, types.int64)])


def _shared_address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The 32-bit address, inside shared memory, of element arguments[1] of array arguments[0]."""
    pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
    return builder.ptrtoint(builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(3)), INT32)


def _tuple(context: Any, builder: Any, signature: Any, struct: Any, n: int) -> Any:
    return context.make_tuple(builder, signature.return_type, [builder.extract_value(struct, i) for i in range(n)])


# ---- float32: 16-byte accesses. Plain indexing would give four loads of 4 bytes.


@intrinsic
def ld4(typing, array, index):
    """Read ``array[index : index + 4]`` with one load; the address must be a multiple of 16 bytes."""
    signature = types.UniTuple(types.float32, 4)(array, index)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        vector = builder.load(builder.bitcast(pointer, VECTOR4.as_pointer()), align=16)
        values = [builder.extract_element(vector, INT32(i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, values)

    return signature, generate


@intrinsic
def st4(typing, array, index, a, b, c, d):
    """Set ``array[index : index + 4] = a, b, c, d`` with one store; the address must be a multiple of 16 bytes."""
    value = types.float32
    signature = types.void(array, index, value, value, value, value)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        vector = ir.Constant(VECTOR4, ir.Undefined)
        for i in range(4):
            vector = builder.insert_element(vector, arguments[2 + i], INT32(i))
        builder.store(vector, builder.bitcast(pointer, VECTOR4.as_pointer())).align = 16
        return context.get_dummy_value()

    return signature, generate


def _unary(text: str) -> Any:
    @intrinsic
    def function(typing, x):
        def generate(context, builder, signature, arguments):
            return _assembly(builder, FLOAT, list(arguments), text, "=f,f")

        return types.float32(types.float32), generate

    return function


# One instruction each, with a relative error of about 2⁻²². The kernels rely on exp2(−∞) = 0 and log2(0) = −∞.
exp2 = _unary("ex2.approx.ftz.f32 $0,$1;")
log2 = _unary("lg2.approx.ftz.f32 $0,$1;")
inverse = _unary("rcp.approx.ftz.f32 $0,$1;")


@intrinsic
def div(typing, a, b):
    """a // b in 32 bits, for whole numbers from 0 to 2³¹ − 1.

    Numba's // works in 64 bits: it calls a subroutine of about a hundred instructions, during which all registers of
    the caller have to be kept.
    """

    def generate(context, builder, signature, arguments):
        a, b = (context.cast(builder, x, kind, types.uint32) for x, kind in zip(arguments, signature.args, strict=True))
        return builder.udiv(a, b)

    return types.int32(a, b), generate


@intrinsic
def shfl_xor(typing, value, mask):
    """The `value` of the thread whose number in the warp is this thread's number xor `mask`."""

    def generate(context, builder, signature, arguments):
        mask = context.cast(builder, arguments[1], signature.args[1], types.int32)
        text = "shfl.sync.bfly.b32 $0,$1,$2,0x1f,0xffffffff;"
        return _assembly(builder, FLOAT, [arguments[0], mask], text, "=f,f,r", effect=True)

    return types.float32(types.float32, mask), generate


@cuda.jit(device=True)
def warp_sync():
    """Wait for the warp; all its threads then see what any of them wrote to shared memory."""
    cuda.syncwarp()


# ---- bfloat16: stored as uint16 in memory; a uint32 register holds two, the first in its lower half


@intrinsic
def pack_bf16(typing, low, high):
    """Round two float32 numbers to the nearest bfloat16, ties to even, and pack them."""

    def generate(context, builder, signature, arguments):
        # the instruction names the upper half first
        return _assembly(builder, INT32, [arguments[1], arguments[0]], "cvt.rn.bf16x2.f32 $0,$1,$2;", "=r,f,f")

    return types.uint32(types.float32, types.float32), generate


@cuda.jit(device=True)
def bf16_bits(x):
    """The bits of a float32 rounded to bfloat16."""
    return types.uint16(pack_bf16(x, types.float32(0)) & 0xFFFF)


@intrinsic
def st_pair(typing, array, index, pair):
    """Store two packed bfloat16 at an even `index` of an array aligned to 4 bytes."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        builder.store(arguments[2], builder.bitcast(pointer, INT32.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(array, index, types.uint32), generate


@intrinsic
def float_bits(typing, x):
    """The bits of a float32 as a uint32, for memory that otherwise holds bfloat16."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], INT32)

    return types.uint32(types.float32), generate


@intrinsic
def bits_float(typing, low, high):
    """The float32 whose bits are these two uint16."""

    def generate(context, builder, signature, arguments):
        low, high = (builder.zext(x, INT32) for x in arguments)
        return builder.bitcast(builder.or_(low, builder.shl(high, INT32(16))), FLOAT)

    return types.float32(types.uint16, types.uint16), generate


@intrinsic
def pair(typing, low, high):
    """Pack two bfloat16 that are given as uint16, as they are stored in memory."""

    def generate(context, builder, signature, arguments):
        low, high = (builder.zext(x, INT32) for x in arguments)
        return builder.or_(low, builder.shl(high, INT32(16)))

    return types.uint32(types.uint16, types.uint16), generate


# ---- shared memory: asynchronous copies to it, loading fragments from it


@intrinsic
def cp_async16(typing, shared, to, array, index, valid):
    """Start copying 8 bfloat16 (16 bytes, aligned) to shared memory. If not `valid`, write zeros and read nothing."""

    def generate(context, builder, signature, arguments):
        to = _shared_address(context, builder, signature, arguments)
        source = _pointer(context, builder, signature.args[2], arguments[2], arguments[3], signature.args[3])
        source = builder.ptrtoint(builder.addrspacecast(source, source.type.pointee.as_pointer(1)), INT64)
        _copy16(builder, to, source, arguments[4])
        return context.get_dummy_value()

    return types.void(shared, to, array, index, types.boolean), generate


def _copy16(builder: Any, to: Any, source: Any, valid: Any) -> None:
    """Emit the copy of 16 bytes between two addresses, or of zeros."""
    valid = builder.trunc(valid, ir.IntType(1)) if valid.type.width > 1 else valid
    size = builder.select(valid, INT32(16), INT32(0))
    text = "cp.async.cg.shared.global [$0],[$1],16,$2;"
    _assembly(builder, ir.VoidType(), [to, source, size], text, "r,l,r,~{memory}", effect=True)


@intrinsic
def cp_async_commit(typing):
    """Close the current group: all copies that this thread has started since the previous group was closed."""

    def generate(context, builder, signature, arguments):
        _assembly(builder, ir.VoidType(), [], "cp.async.commit_group;", "~{memory}", effect=True)
        return context.get_dummy_value()

    return types.void(), generate


def _wait(n: int) -> Any:
    @intrinsic
    def function(typing):
        def generate(context, builder, signature, arguments):
            _assembly(builder, ir.VoidType(), [], f"cp.async.wait_group {n};", "~{memory}", effect=True)
            return context.get_dummy_value()

        return types.void(), generate

    return function


# cp_async_wait[n](): wait until at most n of this thread's groups of copies are still under way
cp_async_wait = (_wait(0), _wait(1))


LDMATRIX4 = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{$0,$1,$2,$3}},[$4];"  # with .trans or without


def _ldmatrix(context: Any, builder: Any, signature: Any, address: Any, trans: str = "") -> Any:
    """Emit the load of four matrices, each row of which one thread has the address of."""
    result, text = ir.LiteralStructType([INT32] * 4), LDMATRIX4.format(trans)
    struct = _assembly(builder, result, [address], text, "=r,=r,=r,=r,r,~{memory}", effect=True)
    return _tuple(context, builder, signature, struct, 4)


@intrinsic
def ldmatrix4(typing, shared, index):
    """Load four 8 × 8 matrices of bfloat16 at once.

    Thread 8m + r passes the index of row r of matrix m. Thread t receives elements 2(t mod 4) and the next one in row
    t // 4 of each matrix.
    """

    def generate(context, builder, signature, arguments):
        address = _shared_address(context, builder, signature, arguments)
        return _ldmatrix(context, builder, signature, address)

    return types.UniTuple(types.uint32, 4)(shared, index), generate


@intrinsic
def transpose8x8(typing, pair):
    """Transpose an 8 × 8 matrix of bfloat16 that a warp holds in registers, in the layout of ldmatrix."""

    def generate(context, builder, signature, arguments):
        text = "movmatrix.sync.aligned.m8n8.trans.b16 $0,$1;"
        return _assembly(builder, INT32, list(arguments), text, "=r,r", effect=True)

    return types.uint32(types.uint32), generate


# ---- tensor cores


@intrinsic
def mma_bf16(typing, c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    """C + A B, computed by a warp: A (16, 16) and B (16, 8) bfloat16, C (16, 8) float32.

    A thread passes its elements of A, B and C, and receives its four elements of the result. For thread t, with
    g = t // 4 and p = 2(t mod 4), these are (a and b are pairs of neighbours):
    a0 = A[g, p:p+2], a1 = A[g+8, p:p+2], a2 = A[g, p+8:p+10], a3 = A[g+8, p+8:p+10];
    b0 = B[p:p+2, g], b1 = B[p+8:p+10, g]; c0, c1 = C[g, p:p+2]; c2, c3 = C[g+8, p:p+2].
    """
    value, pair = types.float32, types.uint32
    signature = types.UniTuple(value, 4)(value, value, value, value, pair, pair, pair, pair, pair, pair)

    def generate(context, builder, signature, arguments):
        struct = _assembly(
            builder,
            ir.LiteralStructType([FLOAT] * 4),
            [*arguments[4:], *arguments[:4]],
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{$0,$1,$2,$3},{$4,$5,$6,$7},{$8,$9},{$10,$11,$12,$13};",
            "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
            warp=True,
        )
        return _tuple(context, builder, signature, struct, 4)

    return signature, generate
