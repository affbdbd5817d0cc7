"""The gate's activation: sigmoid (the paper's choice), SiLU, ReLU² or none.

GTA multiplies decoded values by gate(x W_G + b_G). "none" is the identity, for comparison only: a
mechanism configured without a gate has no W_G at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.ops.arrays import Array, array_module, narrow, widen

GATES = ("sigmoid", "silu", "relu2", "none")


def sigmoid(a: Array) -> Array:
    """σ(a) = 1 / (1 + e^−a). If e^−a overflows, σ(a) is below the smallest normal number, and the result is 0."""
    xp = array_module(a)
    y: Array = xp.negative(a)  # all steps in one array: a new array for each would take twice as long
    with np.errstate(over="ignore"):
        xp.exp(y, out=y)
    y += 1
    xp.reciprocal(y, out=y)
    return y


def gate_forward(a: Array, kind: str = "sigmoid") -> tuple[Array, Any]:
    """g = σ(a), a σ(a), max(a, 0)² or a, in the order of `kind`.

    Parameters
    ----------
    a : any shape
    kind : {"sigmoid", "silu", "relu2", "none"}

    Returns
    -------
    g : the shape of a
    saved : for :func:`gate_backward`

    Raises
    ------
    ValueError
        If `kind` is none of these.
    """
    if kind not in GATES:
        check_choice("gate", kind, GATES)
    wide = widen(a)
    if kind == "sigmoid":
        g = sigmoid(wide)
    elif kind == "silu":
        g = wide * sigmoid(wide)
    elif kind == "relu2":
        g = array_module(a).maximum(wide, 0) ** 2
    else:
        g = wide
    return narrow(g, a.dtype), (a, kind)


def gate_backward(dg: Array, saved: Any) -> Array:
    """da = dg ⊙ gate′(a), where gate′ is σ(1 − σ), σ + a σ(1 − σ), 2 max(a, 0) or 1, in the order of `kind`.

    Parameters
    ----------
    dg : the shape of a
    saved : from :func:`gate_forward`

    Returns
    -------
    da : the shape of a
    """
    a, kind = saved
    if kind == "none":
        return dg
    wide = widen(a)
    if kind == "relu2":
        slope = 2 * array_module(a).maximum(wide, 0)
    else:
        s = sigmoid(wide)
        slope = 1 - s
        slope *= s
        if kind == "silu":
            slope *= wide
            slope += s
    slope *= widen(dg)
    return narrow(slope, a.dtype)
