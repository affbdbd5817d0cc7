"""Compiled RMSNorm and SwiGLU, each in one pass over memory; the block uses them with the engine "numba".

:mod:`gta_ref.ops` defines both. There, every operation of the formula is a pass over memory of its own: SwiGLU's
backward has eleven. The functions here have the same names and arguments, and their forwards save the same.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from gta_ref.core.cpu.compiling import FLAGS, compiled, inlined, once
from gta_ref.core.cpu.llvm import LOG2E, exp2
from gta_ref.ops import Array


def swiglu_forward(a: Array, b: Array) -> tuple[Array, Any]:
    """y = a σ(a) ⊙ b; see :func:`gta_ref.ops.swiglu.swiglu_forward`."""
    y = np.empty(a.shape, a.dtype)
    kernel = _kernel(_swiglu_forward_kernel, a.dtype, 2, 1)
    kernel(_flat(a), _flat(b), _flat(y), a.dtype.type(LOG2E))
    return y, (a, b)


def swiglu_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """da = dy ⊙ b ⊙ (σ + a σ (1 − σ)) and db = dy ⊙ a σ; see :func:`gta_ref.ops.swiglu.swiglu_backward`."""
    a, b = saved
    da, db = np.empty(a.shape, a.dtype), np.empty(a.shape, a.dtype)
    kernel = _kernel(_swiglu_backward_kernel, a.dtype, 3, 2)
    kernel(*(_flat(x) for x in (dy, a, b, da, db)), a.dtype.type(LOG2E))
    return da, db


def rmsnorm_forward(x: Array, g: Array, eps: float = 1e-5) -> tuple[Array, Any]:
    """y = g ⊙ x / r with r = √(mean(x²) + eps); see :func:`gta_ref.ops.rmsnorm.rmsnorm_forward`."""
    y, inverse = np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    kernel = _kernel(_rmsnorm_forward_kernel, x.dtype, 2, 2)
    kernel(*(_flat(array) for array in (x, g, y, inverse)), x.dtype.type(eps))
    return y, (x, g, inverse)


def rmsnorm_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """dx = (u − n · mean(u ⊙ n)) / r with n = x / r, u = dy ⊙ g; dg = Σ dy ⊙ n; see gta_ref.ops.rmsnorm."""
    x, g, inverse = saved
    dx, dg = np.empty(x.shape, x.dtype), np.zeros(g.shape, g.dtype)
    kernel = _kernel(_rmsnorm_backward_kernel, x.dtype, 4, 2)
    kernel(*(_flat(array) for array in (dy, x, g, inverse, dx, dg)), x.dtype.type(1 / len(g)))
    return dx, dg


def _flat(x: Array) -> Array:
    """Return the array as one row in memory; a view if it is contiguous already."""
    return np.ascontiguousarray(x).reshape(-1)


@once
def _kernel(kernel: Callable[..., None], dtype: np.dtype, inputs: int, outputs: int) -> Any:
    """Compile a kernel for a dtype; its arguments are arrays that it reads, arrays that it writes, and a number."""
    real = types.float64 if dtype == np.float64 else types.float32
    arrays = [types.Array(real, 1, "C", readonly=True)] * inputs + [real[::1]] * outputs
    # 1/0 is infinite, as in NumPy: the compiler does not vectorise a loop in which a division might raise
    return compiled(kernel, types.void(*arrays, real), error_model="numpy")


# Every number in the kernels has the arrays' type: a float32 combined with a Python number would give a float64.


@inlined(fastmath=FLAGS, error_model="numpy")
def _sigmoid(a, c, one):
    """σ(a) by e^−|a|, which does not overflow; c is log₂ e."""
    zero = one - one
    e = exp2(-abs(a), c, zero)
    return (one if a >= zero else e) / (e + one)


def _swiglu_forward_kernel(a, b, y, c):
    one = y.dtype.type(1)
    for i in range(len(a)):
        y[i] = a[i] * _sigmoid(a[i], c, one) * b[i]


def _swiglu_backward_kernel(dy, a, b, da, db, c):
    one = da.dtype.type(1)
    for i in range(len(a)):
        s = _sigmoid(a[i], c, one)
        silu = a[i] * s
        da[i] = dy[i] * b[i] * (s + silu * (one - s))
        db[i] = dy[i] * silu


def _rmsnorm_forward_kernel(x, g, y, inverse, eps):
    d, one = len(g), y.dtype.type(1)
    share = one / y.dtype.type(d)
    for row in range(len(inverse)):
        first, total = row * d, one - one
        for j in range(d):
            total += x[first + j] * x[first + j]
        r = one / math.sqrt(total * share + eps)
        inverse[row] = r
        for j in range(d):
            y[first + j] = x[first + j] * r * g[j]


def _rmsnorm_backward_kernel(dy, x, g, inverse, dx, dg, share):
    d = len(g)
    for row in range(len(inverse)):
        first, r, mean = row * d, inverse[row], share - share
        for j in range(d):
            mean += dy[first + j] * g[j] * x[first + j]
        mean *= r * share
        for j in range(d):
            n = x[first + j] * r
            dg[j] += dy[first + j] * n
            dx[first + j] = (dy[first + j] * g[j] - n * mean) * r
