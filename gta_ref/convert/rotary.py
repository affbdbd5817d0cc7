r"""Queries and keys of shared maps, fitted in closed form to the heads that share them.

RoPE turns pairs of features. Written as a complex number, feature a plus i times feature b, the pair of frequency f is
multiplied by :math:`e^{i p \theta_f}` at position p, and the score of query t and key s is

.. math:: S(t, s) = \mathrm{Re} \sum_f \bar q_f(t)\, k_f(s)\, e^{i (s - t) \theta_f}.

Multiplying q_f and k_f by complex numbers commutes with that rotation. So new queries and keys may be any complex
combinations of old ones, frequency by frequency, and they stay linear functions of the token.

A map that is shared gets the mean of its heads' scores, with weights w_i that sum to 1. If all its heads i read one key
head, the mean of their scores is the score of the mean query, exactly:

.. math:: \sum_i w_i \bar q_{i,f}(t)\, k_f(s) = \overline{\Big(\sum_i w_i q_{i,f}(t)\Big)}\, k_f(s).

If they read different key heads g, or if maps share a key head, the sum has several terms,

.. math:: \sum_g \bar u_{m,g}(t)\, k_g(s), \qquad u_{m,g} = \sum_{i \in m,\, g(i) = g} w_i q_i,

and one product :math:`\bar q'_m(t)\, k'(s)` per map m has to stand for it. With t and s taken as independent, the best
k' in the mean of squares follows from the second moments of keys and queries: with :math:`K = E[k k^H] = L L^H` and
:math:`U = \sum_m E[\bar u_m u_m^T]`, it is :math:`k' = v^H L^{-1} k`, where :math:`\bar v` is the eigenvector of
:math:`L^T U \bar L` with the largest eigenvalue, and :math:`q'_m = \sum_g \bar\varrho_g u_{m,g}` with
:math:`\varrho = L v`. What is lost is the sum of the other eigenvalues.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gta_ref.convert.grouping import Group
from gta_ref.ops import Array


def as_complex(x: Array, pairing: str) -> Array:
    """(..., d) features → (..., d/2) complex numbers, complex128: the pairs that RoPE turns."""
    x = np.asarray(x, np.float64)
    half = x.shape[-1] // 2
    first, second = (x[..., ::2], x[..., 1::2]) if pairing == "interleaved" else (x[..., :half], x[..., half:])
    found: Array = first + 1j * second
    return found


def as_features(z: Array, pairing: str) -> Array:
    """The inverse of :func:`as_complex`; float64."""
    x = np.empty((*z.shape[:-1], 2 * z.shape[-1]))
    half = z.shape[-1]
    if pairing == "interleaved":
        x[..., ::2], x[..., 1::2] = z.real, z.imag
    else:
        x[..., :half], x[..., half:] = z.real, z.imag
    return x


class Moments(NamedTuple):
    """Second moments of a layer's queries and keys before RoPE, by frequency f.

    Attributes
    ----------
    q : (d/2, n_h, n_h), complex
        Mean of conj(q_i) q_j over the tokens.
    k : (d/2, n_k, n_k), complex
        Mean of k_g conj(k_h).
    """

    q: Array
    k: Array


def moments(q: Array, k: Array, pairing: str) -> Moments:
    """Measure them on projected queries q (B, n_h, N, d) and keys k (B, n_k, N, d)."""

    def gram(x: Array) -> Array:
        z = as_complex(x, pairing).transpose(3, 1, 0, 2)  # (d/2, n, B, N)
        z = z.reshape(*z.shape[:2], -1)
        found: Array = z @ z.conj().swapaxes(1, 2) / z.shape[2]  # E[z_i conj(z_j)]
        return found

    return Moments(gram(q).conj(), gram(k))


class KeyFit(NamedTuple):
    """One key head for a group of maps.

    Attributes
    ----------
    key_heads : tuple of int
        The original key heads that it is made of.
    beta : (d/2, len(key_heads)), complex
        k' = Σ_g β_g k_g.
    rho : (d/2, len(key_heads)), complex
        q'_m = Σ_g conj(ϱ_g) u_{m,g}.
    lost, kept : float
        Mean square of what the scores, before 1/√d_h, lose and keep.
    """

    key_heads: tuple[int, ...]
    beta: Array
    rho: Array
    lost: float
    kept: float


def fit_key(maps: list[Group], weights: Array, key_of: Array, found: Moments) -> KeyFit:
    """Fit one key head to all maps that read it.

    Parameters
    ----------
    maps : list of tuple of int
        The heads of each map.
    weights : (n_h,)
        w_i, which sum to 1 over the heads of each map.
    key_of : (n_h,), int
        The original key head of each head.
    found : Moments
    """
    used = tuple(sorted({int(key_of[i]) for heads in maps for i in heads}))
    n_frequencies = found.k.shape[0]
    u = np.zeros((n_frequencies, len(used), len(used)), complex)
    for heads in maps:
        # which heads make up u_{m,g}, and with which weights
        mix = np.zeros((len(used), len(weights)))
        for i in heads:
            mix[used.index(int(key_of[i])), i] = weights[i]
        u += mix @ found.q @ mix.T
    k = found.k[np.ix_(range(n_frequencies), used, used)]
    beta, rho = np.empty((2, n_frequencies, len(used)), complex)
    lost = kept = 0.0
    for f in range(n_frequencies):
        values, vectors = np.linalg.eigh(k[f])
        real = values > 1e-14 * values[-1]
        root = np.sqrt(values[real])
        factor, inverse = vectors[:, real] * root, (vectors[:, real] / root).conj().T  # L, and its left inverse
        energies, directions = np.linalg.eigh(factor.T @ u[f] @ factor.conj())
        v = directions[:, -1].conj()
        # as large as the keys that it replaces, and turned so that the largest part of it is not turned
        rho[f] = factor @ v
        phase = rho[f, np.abs(rho[f]).argmax()]
        scale = np.sqrt(values.sum() / len(used)) * phase / abs(phase)
        beta[f], rho[f] = v.conj() @ inverse * scale, rho[f] / scale
        lost += float(energies[:-1].sum())
        kept += float(energies[-1])
    return KeyFit(used, beta, rho, lost, kept)


def new_projections(
    w_q: Array, w_k: Array, maps: list[Group], fits: list[KeyFit], weights: Array, key_of: Array, pairing: str
) -> tuple[Array, Array]:
    """Weights of the new queries and keys.

    Parameters
    ----------
    w_q : (H, n_h, d)
    w_k : (H, n_k, d)
    maps : list of n_q tuples of int
    fits : list of KeyFit
        One per new key head; each serves a contiguous run of maps.
    weights, key_of : as in :func:`fit_key`
    pairing : str
        RoPE's.

    Returns
    -------
    w_q : (H, n_q·d), float64
    w_k : (H, n_k'·d), float64
    """
    q, k = as_complex(w_q, pairing), as_complex(w_k, pairing)  # (H, n, d/2)
    per_key = len(maps) // len(fits)
    new_q, new_k = [], []
    for m, heads in enumerate(maps):
        fit = fits[m // per_key]
        rho = {g: fit.rho[:, place] for place, g in enumerate(fit.key_heads)}
        new_q.append(sum(weights[i] * rho[int(key_of[i])].conj() * q[:, i] for i in heads))
    for fit in fits:
        new_k.append(sum(fit.beta[:, place] * k[:, g] for place, g in enumerate(fit.key_heads)))
    rows = len(w_q)
    return tuple(as_features(np.stack(x, axis=1), pairing).reshape(rows, -1) for x in (new_q, new_k))  # type: ignore[return-value]
