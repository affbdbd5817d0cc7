"""SwiGLU: the product inside the MLP, silu(a) ⊙ b, where a and b are two projections of the token."""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, narrow, widen
from gta_ref.ops.gate import sigmoid


def swiglu_forward(a: Array, b: Array) -> tuple[Array, Any]:
    """y = a σ(a) ⊙ b.

    Parameters
    ----------
    a, b : the same shape
        x W_gate and x W_up.

    Returns
    -------
    y : the same shape
    saved : for :func:`swiglu_backward`
    """
    wide = widen(a)
    y = sigmoid(wide)
    y *= wide
    y *= widen(b)
    return narrow(y, a.dtype), (a, b)


def swiglu_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """da = dy ⊙ b ⊙ (σ + a σ (1 − σ)) and db = dy ⊙ a σ.

    Parameters
    ----------
    dy : the shape of a
    saved : from :func:`swiglu_forward`

    Returns
    -------
    da, db : the shape of a
    """
    a, b = saved
    wide, dy_wide = widen(a), widen(dy)
    s = sigmoid(wide)
    silu = wide * s
    da = 1 - s  # in place from here on: to allocate arrays of this size takes longer than to fill them
    da *= silu
    da += s
    da *= dy_wide
    da *= widen(b)
    silu *= dy_wide
    return narrow(da, a.dtype), narrow(silu, b.dtype)
