"""Linear map: y = x W + b. Weights act from the right."""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, narrow, widen


def linear_forward(x: Array, w: Array, b: Array | None = None) -> tuple[Array, Any]:
    """y = x W + b.

    Parameters
    ----------
    x : (..., d_in)
    w : (d_in, d_out)
    b : (d_out,), optional

    Returns
    -------
    y : (..., d_out), in the dtype of x
    saved : for :func:`linear_backward`
    """
    d_in, d_out = w.shape
    # one product over all tokens: NumPy would make one a sequence, slow where a sequence is a token
    y = widen(x).reshape(-1, d_in) @ widen(w)  # (tokens, d_out)
    if b is not None:
        y += widen(b)
    y = narrow(y, x.dtype).reshape(*x.shape[:-1], d_out)
    return y, (x, w, b is not None)


def linear_backward(dy: Array, saved: Any) -> tuple[Array, Array, Array | None]:
    """dx = dy Wᵀ, dW = xᵀ dy and db = Σ dy, the sums going over all tokens.

    Parameters
    ----------
    dy : (..., d_out)
    saved : from :func:`linear_forward`

    Returns
    -------
    dx : (..., d_in)
    dw : (d_in, d_out)
    db : (d_out,), or None where there was no bias
    """
    x, w, has_bias = saved
    d_in, d_out = w.shape
    dy_rows = widen(dy).reshape(-1, d_out)  # (tokens, d_out)
    dx = narrow(dy_rows @ widen(w).T, x.dtype).reshape(x.shape)
    dw = widen(x).reshape(-1, d_in).T @ dy_rows  # (d_in, d_out)
    db = narrow(dy_rows.sum(axis=0), w.dtype) if has_bias else None
    return dx, narrow(dw, w.dtype), db
