"""Kullback–Leibler divergence of one model's prediction from another's: what a distilled model is trained by."""

from __future__ import annotations

from typing import Any

from gta_ref.errors import check_shape
from gta_ref.ops.arrays import Array, array_module, narrow, widen


def kl_forward(logits: Array, teacher: Array) -> tuple[Array, Any]:
    """KL(p ‖ q) = Σ_v p_v (log p_v − log q_v), averaged over the tokens, natural logarithms.

    p = softmax(teacher) is the prediction to be imitated, q = softmax(logits) the one that imitates it
    (Hinton et al., arXiv 1503.02531, at temperature 1).

    Parameters
    ----------
    logits : (..., vocabulary)
    teacher : (..., vocabulary)
        Logits too; nothing is differentiated by them.

    Returns
    -------
    divergence : scalar array, float32 or float64; in nats per token, at least 0 except for rounding; 0 without tokens
    saved : for :func:`kl_backward`
    """
    xp = array_module(logits)
    check_shape("teacher", teacher, logits.shape)
    log_q, log_p = _log_softmax(xp, widen(logits)), _log_softmax(xp, widen(teacher))
    p = xp.exp(log_p)
    n = max(1, logits.size // logits.shape[-1])
    log_p -= log_q
    log_p *= p
    divergence = log_p.sum() / log_p.dtype.type(n)
    return divergence, (log_q, p, n, logits.dtype)


def kl_backward(d_divergence: Array | float, saved: Any) -> Array:
    """dlogits = d_divergence (q − p) / n for n tokens, since ∂KL/∂logits = q − p.

    Parameters
    ----------
    d_divergence : scalar
    saved : from :func:`kl_forward`

    Returns
    -------
    dlogits : (..., vocabulary)
    """
    log_q, p, n, dtype = saved
    dlogits = array_module(p).exp(log_q)  # (..., vocabulary)
    dlogits -= p
    dlogits *= float(d_divergence) / n
    return narrow(dlogits, dtype)


def _log_softmax(xp: Any, x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    x -= xp.log(xp.exp(x).sum(axis=-1, keepdims=True))
    return x
