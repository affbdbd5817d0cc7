"""Results for some query rows by the definition, with which a benchmark checks long sequences.

dz is 0 in all other rows. They add nothing to dk and dv, which can therefore be compared as a whole, while the map that
the definition writes to memory has few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gta_ref.core import Mask, attention_backward, attention_forward

CHECKED_ROWS = 32  # queries at each end of a sequence whose results are compared with float64
BY_QUERY = ("z", "lse", "dq")  # the results that have one row per query


def at_both_ends(queries: int) -> np.ndarray:
    """Indices of the first and of the last CHECKED_ROWS of a sequence's queries, in ascending order."""
    return np.unique([*range(min(CHECKED_ROWS, queries)), *range(max(0, queries - CHECKED_ROWS), queries)])


def zero_elsewhere(dz: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of `dz` (B, n_q, N_q, d_v) that is 0 except in these rows."""
    found = np.zeros_like(dz)
    found[:, :, rows] = dz[:, :, rows]
    return found


def by_definition(arrays: Sequence[np.ndarray], rows: np.ndarray, dtype: Any, backward: bool) -> dict[str, np.ndarray]:
    """Results of the causal attention core for some query rows; each run of neighbouring rows is one call.

    Parameters
    ----------
    arrays : q, k, v and dz
        The mask is aligned to the end: the last query sees all keys.
    rows : array of int, ascending
    dtype : float64 or float32
        The precision of the computation.
    backward : bool
        Whether gradients are computed, too.

    Returns
    -------
    results : dict
        z and lse for these rows; with `backward` also dq for these rows, and dk and dv for all keys.
    """
    q, k, v, dz = (x.astype(dtype, copy=False) for x in arrays)
    by_query: dict[str, list[np.ndarray]] = {"z": [], "lse": [], "dq": []}
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        mask = Mask(q_start=int(run[0]) + k.shape[2] - q.shape[2])
        z, lse, saved = attention_forward(q[:, :, run], k, v, mask=mask, engine="reference", need_saved=backward)
        by_query["z"].append(z)
        by_query["lse"].append(lse)
        if backward:
            grads = attention_backward(dz[:, :, run], saved)
            by_query["dq"].append(grads[0])
            dk += grads[1]
            dv += grads[2]
    found = {name: np.concatenate(parts, axis=2) for name, parts in by_query.items() if parts}
    return {**found, "dk": dk, "dv": dv} if backward else found
