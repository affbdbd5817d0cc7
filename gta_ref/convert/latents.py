r"""Values put through a latent, in closed form, weighted by what the layer does with them.

A head adds :math:`\bar v_i W_{O,i}` to the layer's output, where :math:`\bar v_i = A_i V_{g(i)}` is its attended value.
A latent head C of width d_l replaces the values V of several heads: :math:`C = V a`, decoded by P. Both are linear, so
they commute with the attention, :math:`A (V a) P = (A V) a P`, and what the output loses is, summed over the heads,

.. math:: E\, \| \bar v\, (I - a P)\, E_{g(i)} W_{O,i} \|^2

with :math:`E_g` choosing the columns of value head g. Let :math:`K = E[\bar v^T \bar v] = L L^T` be the second moment
of the attended values and :math:`G = \sum_i E_{g(i)} W_{O,i} W_{O,i}^T E_{g(i)}^T`. The least loss is the sum of the
eigenvalues of :math:`L^T G L` beyond the d_l largest, and with the eigenvectors U of those it is reached by

.. math:: a = L^{-T} U, \qquad P = U^T L^T.

This is the singular value decomposition of :math:`L^T G^{1/2}`. An SVD of the weights alone would take K = I and G = I:
all directions of the values equally frequent and equally important.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gta_ref.ops import Array

RIDGE = 1.0  # see ridge()


class LatentFit(NamedTuple):
    """One latent head.

    Attributes
    ----------
    a : (d, d_l), float64
        C = V a, for the values of the heads side by side.
    p : (d_l, d), float64
        V ≈ C P.
    lost : float
        Mean square of what the layer's output loses.
    kept : float
        Mean square of what it keeps.
    """

    a: Array
    p: Array
    lost: float
    kept: float


def fit_latent(attended: Array, importance: Array, latent_dim: int) -> LatentFit:
    """Fit a latent head to values of width d.

    Parameters
    ----------
    attended : (d, d)
        K, the second moment of the attended values.
    importance : (d, d)
        G.
    latent_dim : int
        d_l. If it is larger than d, the other latent features are zero.
    """
    values, vectors = np.linalg.eigh(np.asarray(attended, np.float64))
    root = np.sqrt(np.maximum(values, 1e-12 * values[-1]))  # a direction that never occurred still has an inverse
    factor, inverse = vectors * root, vectors / root  # L, and L^{-T}
    energies, u = np.linalg.eigh(factor.T @ importance @ factor)
    energies, u = energies[::-1], u[:, ::-1]
    d, width = len(attended), min(latent_dim, len(attended))
    a, p = np.zeros((d, latent_dim)), np.zeros((latent_dim, d))
    a[:, :width], p[:width] = inverse @ u[:, :width], u[:, :width].T @ factor.T
    return LatentFit(a, p, float(energies[width:].sum()), float(energies[:width].sum()))


def ridge(x: Array, y: Array, prior: Array, weights: Array, strength: float = RIDGE) -> Array:
    """Regress y on x, and stay near a prior where the data say little.

    Minimises Σ_t ω_t ‖y_t − x_t w‖² + λ ‖w − prior‖², where λ is `strength` times the mean of Σ_t ω_t x_tj² over the
    columns j. Where y is x prior already, the prior is returned.

    Parameters
    ----------
    x : (n, d)
    y : (n, e)
    prior : (d, e)
    weights : (n,)
        ω.
    strength : float
        Default 1.

    Returns
    -------
    w : (d, e), float64
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    weighted = x.T * weights
    gram = weighted @ x
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram)
    change: Array = np.linalg.solve(gram, weighted @ (y - x @ prior))
    return prior + change
