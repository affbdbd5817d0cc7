"""Embedding: token ids select rows of a table."""

from __future__ import annotations

from typing import Any

from gta_ref.ops.arrays import Array, array_module, narrow, widen


def embedding_forward(ids: Array, table: Array) -> tuple[Array, Any]:
    """y = table[ids].

    Parameters
    ----------
    ids : (B, N), integers in [0, vocabulary)
    table : (vocabulary, H)

    Returns
    -------
    y : (B, N, H)
    saved : for :func:`embedding_backward`

    Raises
    ------
    ValueError
        If the ids are not integers, or one is outside the vocabulary: indexing would wrap negative ids around.
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids has dtype {ids.dtype}; expected integers")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= table.shape[0]):
        raise ValueError(
            f"ids go from {int(ids.min())} to {int(ids.max())}; expected 0 to {table.shape[0] - 1} (the vocabulary)"
        )
    return table[ids], (ids, table.shape, table.dtype)


def embedding_backward(dy: Array, saved: Any) -> Array:
    """Row r of dtable is the sum of dy over all tokens whose id was r.

    Parameters
    ----------
    dy : (B, N, H)
    saved : from :func:`embedding_forward`

    Returns
    -------
    dtable : (vocabulary, H)
    """
    ids, shape, dtype = saved
    xp = array_module(dy)
    dy_wide = widen(dy)
    dtable = xp.zeros(shape, dtype=dy_wide.dtype)
    xp.add.at(dtable, ids, dy_wide)
    return narrow(dtable, dtype)
