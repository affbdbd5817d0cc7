"""How many roundings a right answer gathers: the tolerance of a check is this number of machine epsilons.

To first order, and in whatever order they are taken:

- A sum of n products is off by at most n + 1 roundings of Σ|aᵢ bᵢ| (:func:`product`): that of the product and those of
  the additions. If its factors are off as well, their errors are added.
- exp turns the absolute error of its argument into a relative one. This is what makes large scores and a large lse
  inexact: near 300, float32 has steps of 0.00003, and so much is exp(lse₁ − lse) off.
- A softmax is off by at most A (1 − A) times twice the error of the row's scores, besides its own sum
  (:func:`softmax`): an error that all scores of a row have in common cancels.
- σ is off by at most a quarter of its argument's error, and by roundings of 1.

An answer may take further single steps, such as scaling q before the product, which ``FEW`` allows for.
"""

from __future__ import annotations

import numpy as np

FEW = 8.0


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Roundings of ``a @ b``, element by element."""
    return (a.shape[-1] + FEW) * (np.abs(a) @ np.abs(b))


def softmax(scores: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Roundings of the softmax over the last axis.

    Parameters
    ----------
    scores : (…, N_k)
        −∞ where a key is hidden.
    off : (…, N_k)
        Roundings of each score.

    Returns
    -------
    (…, N_k)
    """
    seen = np.isfinite(scores)
    top = np.max(scores, -1, keepdims=True, initial=-np.inf, where=seen)
    w = np.exp(np.where(seen, scores - np.where(np.isfinite(top), top, 0.0), -np.inf))
    total = w.sum(-1, keepdims=True)
    a = np.divide(w, total, out=np.zeros_like(w), where=total > 0)
    most = np.max(off, -1, keepdims=True, initial=0.0, where=seen)
    return 2 * most * a * (1 - a) + (scores.shape[-1] + FEW) * a


def largest(x: np.ndarray) -> float:
    """The largest number of roundings of any element; 0 without elements."""
    return float(np.max(x, initial=0.0))
