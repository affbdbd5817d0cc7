"""RMSNorm: every token is divided by the root of its mean square, then scaled per feature."""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, array_module, narrow, widen


def rmsnorm_forward(x: Array, g: Array, eps: float = 1e-5) -> tuple[Array, Any]:
    """y = g ⊙ x / r with r = √(mean(x²) + eps).

    Parameters
    ----------
    x : (..., d)
    g : (d,)
    eps : float

    Returns
    -------
    y : (..., d)
    saved : for :func:`rmsnorm_backward`
    """
    x_wide = widen(x)
    inverse = 1 / array_module(x).sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)  # (..., 1)
    y = x_wide * inverse
    y *= widen(g)
    return narrow(y, x.dtype), (x, g, inverse)


def rmsnorm_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """dx = (u − n · mean(u ⊙ n)) / r with n = x / r, u = dy ⊙ g; dg = Σ dy ⊙ n over all tokens.

    Parameters
    ----------
    dy : (..., d)
    saved : from :func:`rmsnorm_forward`

    Returns
    -------
    dx : (..., d)
    dg : (d,)
    """
    x, g, inverse = saved
    normed = widen(x) * inverse  # (..., d)
    dy_wide, g_wide = widen(dy), widen(g)
    product = dy_wide * normed
    dg = product.reshape(-1, g.shape[0]).sum(axis=0)
    product *= g_wide  # u ⊙ n
    normed *= product.mean(axis=-1, keepdims=True)
    dx = dy_wide * g_wide  # u
    dx -= normed
    dx *= inverse
    return narrow(dx, x.dtype), narrow(dg, g.dtype)
