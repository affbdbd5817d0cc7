"""Building blocks of the CPU kernels that Numba does not offer, written as LLVM instructions.

They are exp2 without a branch, a mapping of floats to integers in the same order, and a call of BLAS by its address.
Loops over the first two become vector code; loops over `np.exp` and `max` do not. No flag lets LLVM assume that NaN and
infinity do not occur.

Storage: float16 arrays are passed to the kernels as uint16 views and bfloat16 arrays as int16 views, so that the type
of a view determines how to widen it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))

# Allows a fused multiply-add and nothing else. To an instruction without flags, Numba adds those of its function, which
# allow reordering sums.
FUSE = ("contract",)

# Coefficients of 2^r on [−½, ½], constant first. float32: the best polynomial of degree 6, with a relative error of at
# most 2e-9; float64: the Taylor polynomial of degree 13, with at most 4e-18.
_EXP2_F32 = (
    1.0000000005926,
    0.69314714841861,
    0.24022646203031,
    0.055503324725646,
    0.0096184373576168,
    0.0013399744089213,
    0.00015344279060889,
)
_EXP2_F64 = tuple(math.log(2) ** i / math.factorial(i) for i in range(14))


def float_type(numba_type: Any) -> tuple[ir.Type, ir.IntType, int, int]:
    """The LLVM type of a Numba float, the integer type of its size, its mantissa's bits and its exponent's bias."""
    return (ir.FloatType(), I32, 23, 127) if numba_type == types.float32 else (ir.DoubleType(), I64, 52, 1023)


def computed_in(storage: Any) -> Any:
    """The Numba type in which numbers of a storage type are computed."""
    return storage if isinstance(storage, types.Float) else types.float32


@intrinsic
def exp2(typingctx: Any, x: Any, c: Any, m: Any) -> Any:
    """2^(c·x − m) with an error of about 1 ulp.

    Results below the smallest normal number become 0, and NaN gives NaN. Results near overflow are not supported.

    The exponent is computed by one multiply–add, so that the same x, c and m give the same bits in every kernel. For
    huge scores, a backward whose map differs from the forward's would be wrong by more than rounding.

    Adding 1.5 · 2^mantissa rounds the exponent y to a whole number n and leaves n in the low bits of the sum. A shift
    turns these bits into the exponent of 2^n. Then 2^y = 2^n · p(y − n).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, whole, mantissa, bias = float_type(x)
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(real, [real] * 3), "llvm.fmuladd.f" + str(x.bitwidth)
        )
        y = builder.call(fused, [args[0], args[1], builder.fneg(args[2])])
        coefficients = _EXP2_F32 if x == types.float32 else _EXP2_F64
        magic = real(1.5 * 2**mantissa + bias)
        shifted = builder.fadd(y, magic, flags=FUSE)
        r = builder.fsub(y, builder.fsub(shifted, magic, flags=FUSE), flags=FUSE)
        value = real(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = builder.fadd(builder.fmul(value, r, flags=FUSE), real(coefficient), flags=FUSE)
        exponent = builder.shl(builder.bitcast(shifted, whole), whole(mantissa))
        value = builder.fmul(value, builder.bitcast(exponent, real), flags=FUSE)
        below = builder.fcmp_ordered("<", y, real(1 - bias), flags=FUSE)  # false for NaN, which is therefore returned
        return builder.select(below, real(0), value)

    return x(x, x, x), codegen


def _flip(builder: Any, bits: Any, whole: ir.IntType) -> Any:
    """Convert a float's bits to an integer in the order of the floats, or back, by flipping bits of negative floats."""
    negative = builder.ashr(bits, whole(whole.width - 1))
    return builder.xor(bits, builder.and_(negative, whole(2 ** (whole.width - 1) - 1)))


@intrinsic
def to_ordered(typingctx: Any, x: Any) -> Any:
    """The integer for x: integers are ordered like their floats, and a NaN lies beyond the infinity of its sign."""
    integer = types.int32 if x == types.float32 else types.int64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = float_type(x)[1]
        return _flip(builder, builder.bitcast(args[0], whole), whole)

    return integer(x), codegen


@intrinsic
def from_ordered(typingctx: Any, i: Any) -> Any:
    """The float that :func:`to_ordered` has converted to this integer."""
    real_type = types.float32 if i == types.int32 else types.float64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, whole, _, _ = float_type(real_type)
        return builder.bitcast(_flip(builder, args[0], whole), real)

    return real_type(i), codegen


def widen_bits(builder: Any, bits: Any, storage: Any, lanes: int = 0) -> Any:
    """Widen a stored number, or a vector of `lanes` of them, to the type in which it is computed."""

    def shape(scalar: ir.Type) -> ir.Type:
        return ir.VectorType(scalar, lanes) if lanes else scalar

    if storage == types.uint16:
        return builder.fpext(builder.bitcast(bits, shape(ir.HalfType())), shape(ir.FloatType()))
    if storage == types.int16:
        sixteen = ir.Constant(shape(I32), [16] * lanes if lanes else 16)
        return builder.bitcast(builder.shl(builder.zext(bits, shape(I32)), sixteen), shape(ir.FloatType()))
    return bits


def storage_type(storage: Any) -> tuple[ir.Type, int]:
    """The LLVM type of a stored number, and its size in bytes."""
    if isinstance(storage, types.Float):
        return float_type(storage)[0], storage.bitwidth // 8
    return I16, 2


@intrinsic
def widen(typingctx: Any, x: Any) -> Any:
    """The value of a stored float, in the type in which it is computed."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return widen_bits(builder, args[0], x)

    return computed_in(x)(x), codegen


@intrinsic
def gemm(
    typingctx: Any,
    routine: Any,
    trans_a: Any,
    trans_b: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """BLAS: C = alpha op(A) op(B) + beta C on column-major matrices, C (m, n), op(A) (m, k), op(B) (k, n).

    `routine` is an address from :func:`gemm_address`; a, b and c are addresses, trans_a and trans_b ord("N") or
    ord("T"). The address is an argument, because Numba cannot cache a function with a pointer in its code on disk.
    """
    i32, address, real_type = types.int32, types.intp, alpha
    arguments = (i32, i32, i32, i32, i32, real_type, address, i32, address, i32, real_type, address, i32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def by_reference(value: Any) -> Any:
            slot = cgutils.alloca_once(builder, value.type)
            builder.store(value, slot)
            return builder.bitcast(slot, I8.as_pointer())

        routine, trans_a, trans_b, *rest = args
        operands = [by_reference(builder.trunc(trans, I8)) for trans in (trans_a, trans_b)]
        for value, numba_type in zip(rest, arguments[2:], strict=True):
            is_address = numba_type == address
            operands.append(builder.inttoptr(value, I8.as_pointer()) if is_address else by_reference(value))
        function = ir.FunctionType(ir.VoidType(), [I8.as_pointer()] * 13)
        builder.call(builder.inttoptr(routine, function.as_pointer()), operands)
        return context.get_dummy_value()

    return types.void(address, *arguments), codegen


@cache
def gemm_address(letter: str) -> int:
    """Address of SciPy's sgemm ("f", NumPy's letter for float32) or dgemm ("d").

    All arguments are passed by reference; integers have 32 bits.
    """
    return int(get_cython_function_address("scipy.linalg.cython_blas", {"f": "sgemm", "d": "dgemm"}[letter]))


@cache
def why_not_blas() -> str | None:
    """Why SciPy's BLAS cannot be called in this way; None if it can."""
    from scipy.linalg import cython_blas

    signature = repr(cython_blas.__pyx_capi__["sgemm"])
    if signature.count("int *") != 6:
        return f"it calls SciPy's BLAS with 32-bit integers, but this SciPy has {signature}"
    return None
