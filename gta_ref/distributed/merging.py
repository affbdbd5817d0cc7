"""Results of the attention core for parts of the keys, put together.

If part i of the keys gives z_i and lse_i, then over all keys

    lse = log Σ_i exp(lse_i)        z = Σ_i exp(lse_i − lse) z_i
"""

from __future__ import annotations

import numpy as np

from gta_ref.ops import Array
from gta_ref.ops.arrays import widen


def merge_into(z: Array, lse: Array, z_part: Array, lse_part: Array) -> None:
    """Add the results for more keys to z (B, n_q, N_q, d_v) and lse (B, n_q, N_q); a row may have seen none so far.

    z and lse are changed in place, so that a part needs no more memory than itself.
    """
    top = np.maximum(lse, lse_part)
    finite = np.where(np.isneginf(top), top.dtype.type(0), top)  # −inf − (−inf) would be NaN
    a, b = np.exp(lse - finite), np.exp(lse_part - finite)  # 0 in a row that has seen nothing
    total = a + b
    blind = total == 0
    safe = np.where(blind, total.dtype.type(1), total)
    z *= (a / safe)[..., None]
    z += z_part * (b / safe)[..., None]
    lse[...] = np.where(blind, -np.inf, finite + np.log(safe))


def of_no_keys(q: Array, d_v: int) -> tuple[Array, Array]:
    """z and lse of queries that see nothing, in the precision of computation."""
    real = widen(q[:0]).dtype
    return np.zeros((*q.shape[:3], d_v), real), np.full(q.shape[:3], -np.inf, real)


def merge_all(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The same for any number of parts, in their order."""
    z, lse = (x.copy() for x in parts[0])
    for z_part, lse_part in parts[1:]:
        merge_into(z, lse, z_part, lse_part)
    return z, lse
