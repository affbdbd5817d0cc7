"""RMSNorm and SwiGLU in one pass over memory each, compiled: what the block uses with the fused engine.

:mod:`gta_ref.ops` defines both; there every operation of the formula is a pass over memory, eleven of them in SwiGLU's
backward. Functions are named and called as those of :mod:`gta_ref.ops`, and what a forward saves is the same.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from gta_ref.core.fused_compile import FLAGS, compiled, once
from gta_ref.core.fused_kernels import LOG2E
from gta_ref.core.fused_llvm import exp2
from gta_ref.ops import Array


def swiglu_forward(a: Array, b: Array) -> tuple[Array, Any]:
    """y = a σ(a) ⊙ b; see :func:`gta_ref.ops.swiglu.swiglu_forward`."""
    y = np.empty(a.shape, a.dtype)
    kernel = _kernel(_make_swiglu_forward, a.dtype, 2, 1)
    kernel(_flat(a), _flat(b), _flat(y), a.dtype.type(LOG2E))
    return y, (a, b)


def swiglu_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """da = dy ⊙ b ⊙ (σ + a σ (1 − σ)) and db = dy ⊙ a σ; see :func:`gta_ref.ops.swiglu.swiglu_backward`."""
    a, b = saved
    da, db = np.empty(a.shape, a.dtype), np.empty(a.shape, a.dtype)
    kernel = _kernel(_make_swiglu_backward, a.dtype, 3, 2)
    kernel(*(_flat(x) for x in (dy, a, b, da, db)), a.dtype.type(LOG2E))
    return da, db


def rmsnorm_forward(x: Array, g: Array, eps: float = 1e-5) -> tuple[Array, Any]:
    """y = g ⊙ x / r with r = √(mean(x²) + eps); see :func:`gta_ref.ops.rmsnorm.rmsnorm_forward`."""
    y, inverse = np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    kernel = _kernel(_make_rmsnorm_forward, x.dtype, 2, 2)
    kernel(*(_flat(array) for array in (x, g, y, inverse)), x.dtype.type(eps))
    return y, (x, g, inverse)


def rmsnorm_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """dx = (u − n · mean(u ⊙ n)) / r with n = x / r, u = dy ⊙ g; dg = Σ dy ⊙ n; see gta_ref.ops.rmsnorm."""
    x, g, inverse = saved
    dx, dg = np.empty(x.shape, x.dtype), np.zeros(g.shape, g.dtype)
    kernel = _kernel(_make_rmsnorm_backward, x.dtype, 4, 2)
    kernel(*(_flat(array) for array in (dy, x, g, inverse, dx, dg)), x.dtype.type(1 / len(g)))
    return dx, dg


def _flat(x: Array) -> Array:
    """All numbers of an array in a row; a view where they lie so."""
    return np.ascontiguousarray(x).reshape(-1)


@once
def _kernel(make: Callable[[int], Callable[..., None]], dtype: np.dtype, inputs: int, outputs: int) -> Any:
    """A kernel for a dtype; its arguments are arrays that it reads, arrays that it writes, and a number."""
    real = types.float64 if dtype == np.float64 else types.float32
    arrays = [types.Array(real, 1, "C", readonly=True)] * inputs + [real[::1]] * outputs
    # 1/0 is infinite, as in NumPy: a loop with a division that might raise is not made into vector code
    return compiled(make, types.void(*arrays, real), error_model="numpy")


# Every number in the kernels is of the arrays' type, as a float32 with a Python number makes a float64. The loops begin
# at min(stamp, 1) − 1, which is 0: the stamp has to occur in a kernel to count.


@njit(fastmath=FLAGS, error_model="numpy")
def _sigmoid(a, c, one):
    """σ(a) by e^−|a|, which does not overflow; c is log₂ e."""
    zero = one - one
    e = exp2(-abs(a), c, zero)
    return (one if a >= zero else e) / (e + one)


def _make_swiglu_forward(stamp):
    def swiglu(a, b, y, c):
        one = y.dtype.type(1)
        for i in range(min(stamp, 1) - 1, len(a)):
            y[i] = a[i] * _sigmoid(a[i], c, one) * b[i]

    return swiglu


def _make_swiglu_backward(stamp):
    def swiglu_back(dy, a, b, da, db, c):
        one = da.dtype.type(1)
        for i in range(min(stamp, 1) - 1, len(a)):
            s = _sigmoid(a[i], c, one)
            silu = a[i] * s
            da[i] = dy[i] * b[i] * (s + silu * (one - s))
            db[i] = dy[i] * silu

    return swiglu_back


def _make_rmsnorm_forward(stamp):
    def rmsnorm(x, g, y, inverse, eps):
        d, one = len(g), y.dtype.type(1)
        share = one / y.dtype.type(d)
        for row in range(min(stamp, 1) - 1, len(inverse)):
            first, total = row * d, one - one
            for j in range(d):
                total += x[first + j] * x[first + j]
            r = one / math.sqrt(total * share + eps)
            inverse[row] = r
            for j in range(d):
                y[first + j] = x[first + j] * r * g[j]

    return rmsnorm


def _make_rmsnorm_backward(stamp):
    def rmsnorm_back(dy, x, g, inverse, dx, dg, share):
        d = len(g)
        for row in range(min(stamp, 1) - 1, len(inverse)):
            first, r, mean = row * d, inverse[row], share - share
            for j in range(d):
                mean += dy[first + j] * g[j] * x[first + j]
            mean *= r * share
            for j in range(d):
                n = x[first + j] * r
                dg[j] += dy[first + j] * n
                dx[first + j] = (dy[first + j] * g[j] - n * mean) * r

    return rmsnorm_back
