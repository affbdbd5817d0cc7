"""Cross-entropy of the next token, averaged over the targets that count."""

from __future__ import annotations

from typing import Any

from gta_ref.errors import check_shape
from gta_ref.ops.arrays import Array, array_module, narrow, widen

IGNORE = -100  # marks a target that does not count; the same value as in PyTorch


def cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, Any]:
    """loss = mean over counted tokens of (lse(logits) − logits[target]), natural logarithms.

    Parameters
    ----------
    logits : (..., vocabulary)
    targets : (...), integers in [0, vocabulary), or -100 for a token that does not count

    Returns
    -------
    loss : scalar array, float32 or float64; in nats
    saved : for :func:`cross_entropy_backward`

    Raises
    ------
    ValueError
        If a target is outside the vocabulary, or no target counts.
    """
    xp = array_module(logits)
    check_shape("targets", targets, logits.shape[:-1])
    vocabulary = logits.shape[-1]
    counted = targets != IGNORE
    n = int(counted.sum())
    if n == 0:
        raise ValueError(f"targets has no token that counts; expected at least one that is not {IGNORE}")
    inside = xp.where(counted, targets, 0)
    if int(inside.min()) < 0 or int(inside.max()) >= vocabulary:
        raise ValueError(
            f"targets go from {int(inside.min())} to {int(inside.max())}; expected 0 to {vocabulary - 1}, or {IGNORE}"
        )
    wide = widen(logits)
    shift = wide.max(axis=-1, keepdims=True)
    weights = wide - shift
    xp.exp(weights, out=weights)  # in place, as in the other operations
    lse = xp.log(weights.sum(axis=-1)) + shift[..., 0]  # (...)
    picked = xp.take_along_axis(wide, inside[..., None], axis=-1)[..., 0]  # (...)
    loss = xp.where(counted, lse - picked, wide.dtype.type(0)).sum() / wide.dtype.type(n)
    return loss, (logits, inside, counted, lse, n)


def cross_entropy_backward(dloss: Array | float, saved: Any) -> Array:
    """dlogits = dloss (softmax(logits) − onehot(target)) / n for the n tokens that count, else 0.

    Parameters
    ----------
    dloss : scalar
    saved : from :func:`cross_entropy_forward`

    Returns
    -------
    dlogits : (..., vocabulary)
    """
    logits, inside, counted, lse, n = saved
    xp = array_module(logits)
    wide = widen(logits)
    dlogits = wide - lse[..., None]  # (..., vocabulary)
    xp.exp(dlogits, out=dlogits)
    vocabulary = wide.shape[-1]
    rows = dlogits.reshape(-1, vocabulary)  # a view, because dlogits is a new array
    rows[xp.arange(rows.shape[0]), inside.reshape(-1)] -= 1
    dlogits *= xp.where(counted, wide.dtype.type(1) / n, 0)[..., None] * float(dloss)
    return narrow(dlogits, logits.dtype)
