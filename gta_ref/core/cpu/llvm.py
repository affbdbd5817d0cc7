"""2^x for loops over numbers, which LLVM turns into vector code; loops over ``np.exp`` stay calls.

The compiled functions of :mod:`gta_ref.lm` use it. The attention kernels have their own, on vectors, in softmax.py.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LOG2E = 1 / math.log(2)

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


def _float_type(numba_type: Any) -> tuple[ir.Type, ir.IntType, int, int]:
    """The LLVM type of a Numba float, the integer type of its size, its mantissa's bits and its exponent's bias."""
    single = numba_type == types.float32
    return (ir.FloatType(), ir.IntType(32), 23, 127) if single else (ir.DoubleType(), ir.IntType(64), 52, 1023)


@intrinsic
def exp2(typingctx: Any, x: Any, c: Any, m: Any) -> Any:
    """2^(c·x − m) with an error of about 1 ulp.

    Results below the smallest normal number become 0, and NaN gives NaN. Results near overflow are not supported.

    Adding 1.5 · 2^mantissa rounds the exponent y to a whole number n and leaves n in the low bits of the sum. A shift
    turns these bits into the exponent of 2^n. Then 2^y = 2^n · p(y − n).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real, whole, mantissa, bias = _float_type(x)
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
