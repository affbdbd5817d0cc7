"""Linear maps: one weight for all heads, or one weight per attention map, as in GTA's value decoder.

Weights act from the right: y = x W + b. The decoder of GTA turns each map's latent context into head values:

    U_m = Z_m W_m                        the paper's form
    U_m = [Z_m Z_m … Z_m] + Z_m W_m      the released code's, with e = width / d_l copies of Z_m side by side

The second is the first with W_P = [I I … I] + W.
"""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, array_module, narrow, widen


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
    # one product over all tokens: NumPy would compute one per sequence, which is slow if sequences are single tokens
    y = widen(x).reshape(-1, d_in) @ widen(w)  # (tokens, d_out)
    if b is not None:
        y += widen(b)
    y = narrow(y, x.dtype).reshape(*x.shape[:-1], d_out)
    return y, (x, w, b is not None)


def linear_backward(dy: Array, saved: Any) -> tuple[Array, Array, Array | None]:
    """dx = dy Wᵀ, dW = xᵀ dy and db = Σ dy, summed over all tokens.

    Parameters
    ----------
    dy : (..., d_out)
    saved : from :func:`linear_forward`

    Returns
    -------
    dx : (..., d_in)
    dw : (d_in, d_out)
    db : (d_out,), or None if there was no bias
    """
    x, w, has_bias = saved
    d_in, d_out = w.shape
    dy_rows = widen(dy).reshape(-1, d_out)  # (tokens, d_out)
    dw = widen(x).reshape(-1, d_in).T @ dy_rows  # (d_in, d_out)
    db = narrow(dy_rows.sum(axis=0), w.dtype) if has_bias else None
    return linear_backward_input(dy, saved), narrow(dw, w.dtype), db


def linear_backward_input(dy: Array, saved: Any) -> Array:
    """dx = dy Wᵀ alone, for a weight that is not trained: half of the operations of :func:`linear_backward`.

    Parameters
    ----------
    dy : (..., d_out)
    saved : from :func:`linear_forward`

    Returns
    -------
    dx : (..., d_in)
    """
    x, w, _ = saved
    dx = widen(dy).reshape(-1, w.shape[1]) @ widen(w).T  # (tokens, d_in)
    return narrow(dx, x.dtype).reshape(x.shape)


def decoder_forward(z: Array, w: Array, residual: bool = False) -> tuple[Array, Any]:
    """U_m = Z_m W_m (+ e copies of Z_m), the maps side by side.

    Parameters
    ----------
    z : (B, n_q, N, d_l)
        Latent contexts, one per map.
    w : (n_q, d_l, width)
        width = (n_h/n_q)·d_h: the heads that map m serves, concatenated.
    residual : bool
        Whether to add the e = width / d_l copies of Z_m. Default False.

    Returns
    -------
    values : (B, N, n_q·width)
    saved : for :func:`decoder_backward`

    Raises
    ------
    ValueError
        If `residual` is true and width / d_l is not a whole number.
    """
    batch, n_q, length, d_l = z.shape
    width = w.shape[2]
    if residual and width % d_l:
        raise ValueError(f"decoder_residual=True needs width / d_l to be a whole number; got {width} / {d_l}")
    rows = _rows(widen(z))  # (n_q, B·N, d_l)
    u = rows @ widen(w)  # (n_q, B·N, width)
    if residual:
        u += array_module(z).tile(rows, width // d_l)
    values = u.reshape(n_q, batch, length, width).transpose(1, 2, 0, 3).reshape(batch, length, n_q * width)
    return narrow(values, z.dtype), (z, w, residual)


def decoder_backward(dvalues: Array, saved: Any) -> tuple[Array, Array]:
    """dZ_m = dU_m W_mᵀ (+ the e slices of dU_m, summed); dW_m = Z_mᵀ dU_m over all tokens.

    Parameters
    ----------
    dvalues : (B, N, n_q·width)
    saved : from :func:`decoder_forward`

    Returns
    -------
    dz : (B, n_q, N, d_l)
    dw : (n_q, d_l, width)
    """
    z, w, residual = saved
    batch, n_q, length, d_l = z.shape
    width = w.shape[2]
    du = _rows(widen(dvalues).reshape(batch, length, n_q, width).transpose(0, 2, 1, 3))  # (n_q, B·N, width)
    dz = du @ widen(w).swapaxes(-1, -2)  # (n_q, B·N, d_l)
    if residual:
        dz += du.reshape(n_q, batch * length, width // d_l, d_l).sum(axis=2)
    dw = _rows(widen(z)).swapaxes(-1, -2) @ du  # (n_q, d_l, width)
    dz = dz.reshape(n_q, batch, length, d_l).swapaxes(0, 1)  # (B, n_q, N, d_l)
    return narrow(dz, z.dtype), narrow(dw, w.dtype)


def _rows(x: Array) -> Array:
    """Put all tokens of a map into one matrix, (B, n_q, N, d) → (n_q, B·N, d): one product per map, whatever B is."""
    batch, n_q, length, d = x.shape
    return x.swapaxes(0, 1).reshape(n_q, batch * length, d)
