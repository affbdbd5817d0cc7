"""GTA's value decoder: every map has a matrix of its own that turns its latent context into head values.

The paper's form is U_m = Z_m W_m. The released code adds a residual, U_m = [Z_m Z_m … Z_m] + Z_m W_m, with
e = width / d_l copies side by side; it is the paper's form with W_P = [I I … I] + W.
"""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, array_module, narrow, widen


def decoder_forward(z: Array, w: Array, residual: bool = False) -> tuple[Array, Any]:
    """U_m = Z_m W_m (+ e copies of Z_m), the maps side by side.

    Parameters
    ----------
    z : (B, n_q, N, d_l)
        Latent contexts, one a map.
    w : (n_q, d_l, width)
        width = (n_h/n_q)·d_h: the heads that map m serves, concatenated.
    residual : bool
        Needs a whole e = width / d_l.

    Returns
    -------
    values : (B, N, n_q·width)
    saved : for :func:`decoder_backward`
    """
    batch, n_q, length, d_l = z.shape
    width = w.shape[2]
    if residual and width % d_l:
        raise ValueError(f"decoder_residual=True needs a whole width / d_l; got {width} / {d_l}")
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
    """All tokens of a map in one matrix: (B, n_q, N, d) → (n_q, B·N, d); one product a map, whatever B is."""
    batch, n_q, length, d = x.shape
    return x.swapaxes(0, 1).reshape(n_q, batch * length, d)
