"""Masked softmax over the last axis, and its log-sum-exp in natural logarithms.

A row in which nothing is visible has y = 0 and lse = −inf, and its gradient is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.ops.arrays import Array, array_module, narrow, widen


def softmax_lse_forward(x: Array, visible: Array | None = None) -> tuple[Array, Array, Any]:
    """y_j = exp(x_j − lse) if j is visible, else 0; lse = log Σ_visible exp(x_j).

    The largest visible x is subtracted before exp, so that large scores do not overflow.

    Parameters
    ----------
    x : (..., n)
    visible : boolean, broadcasts to x, optional
        Default: everything is visible.

    Returns
    -------
    y : (..., n), in the dtype of x
    lse : (...), natural logarithm, float32 or float64: never below float32
    saved : for :func:`softmax_backward`
    """
    xp = array_module(x)
    scores = widen(x)
    if visible is not None:
        scores = xp.where(visible, scores, -np.inf)
    if not scores.shape[-1]:  # an empty row has no largest score
        y = narrow(scores, x.dtype)
        return y, xp.full(scores.shape[:-1], -np.inf, scores.dtype), y
    largest = scores.max(axis=-1, keepdims=True)  # (..., 1)
    # −inf − (−inf) is NaN, so a row that sees nothing subtracts 0 instead, and all its exponentials are 0
    shift = xp.where(xp.isneginf(largest), scores.dtype.type(0), largest)
    y = scores - shift
    xp.exp(y, out=y)
    total = y.sum(axis=-1, keepdims=True)  # (..., 1)
    blind = total == 0  # false if total is NaN: a NaN must not be hidden
    total = xp.where(blind, total.dtype.type(1), total)
    y /= total
    lse = xp.where(blind, -np.inf, shift + xp.log(total))[..., 0]
    y = narrow(y, x.dtype)
    return y, lse, y


def softmax_forward(x: Array, visible: Array | None = None) -> tuple[Array, Any]:
    """Compute y only: returns ``y, saved``, as :func:`softmax_lse_forward` does, without lse."""
    y, _, saved = softmax_lse_forward(x, visible)
    return y, saved


def softmax_backward(dy: Array, saved: Any, dlse: Array | None = None) -> Array:
    """dx = y ⊙ (dy − Σ_j dy_j y_j + dlse).

    From ∂y_i/∂x_j = y_i (δ_ij − y_j) and ∂lse/∂x_j = y_j.

    Parameters
    ----------
    dy : (..., n)
    saved : from :func:`softmax_forward` or :func:`softmax_lse_forward`
    dlse : (...), optional
        Cotangent of lse. Default: 0.

    Returns
    -------
    dx : (..., n)
    """
    y, dy_wide = widen(saved), widen(dy)
    row = (dy_wide * y).sum(axis=-1, keepdims=True)  # (..., 1)
    if dlse is not None:
        row = row - dlse[..., None]
    return narrow(y * (dy_wide - row), dy.dtype)
