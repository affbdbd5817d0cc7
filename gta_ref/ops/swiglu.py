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
    return narrow(wide * sigmoid(wide) * widen(b), a.dtype), (a, b)


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
    da = dy_wide * widen(b) * (s + silu * (1 - s))
    db = dy_wide * silu
    return narrow(da, a.dtype), narrow(db, b.dtype)
