"""RMSNorm and its gradient, as formulas; the steps of layers and language models use them."""

from __future__ import annotations

import numpy as np


def normed(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm over the last axis: y_i = g_i x_i / r with r² = Σ_j x_j² / d + ε."""
    return gain * x / np.sqrt(np.einsum("...i,...i->...", x, x) / x.shape[-1] + eps)[..., None]


def normed_backward(
    d_y: np.ndarray, x: np.ndarray, gain: np.ndarray, eps: float, mean_term: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """d_x and d_gain: d_x_i = g_i d_y_i / r − x_i Σ_j g_j d_y_j x_j / (d r³), d_gain = Σ d_y x / r over all rows.

    `mean_term` is a factor on the second term of d_x, which comes from the dependence of r on x.
    """
    r = np.sqrt(np.einsum("...i,...i->...", x, x) / x.shape[-1] + eps)[..., None]
    along = np.einsum("...i,...i->...", gain * d_y, x)[..., None]
    d_x = gain * d_y / r - mean_term * x * along / (x.shape[-1] * r**3)
    return d_x, (d_y * x / r).reshape(-1, x.shape[-1]).sum(0)
