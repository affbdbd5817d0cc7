"""What several test modules use: random inputs of the attention core, and both of its passes in one call."""

import numpy as np

from gta_ref.core import attention_backward, attention_forward


def random_inputs(rng, sizes, dtype=np.float32, stretch=1.0):
    """q, k, v, dz and dlse for (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v); `stretch` multiplies q."""
    batch, n_q, n_k, n_v, n_queries, n_keys, d_k, d_v = sizes
    shapes = (batch, n_q, n_queries, d_k), (batch, n_k, n_keys, d_k), (batch, n_v, n_keys, d_v)
    q, k, v, dz = (rng.standard_normal(s) for s in (*shapes, (batch, n_q, n_queries, d_v)))
    dlse = rng.standard_normal((batch, n_q, n_queries))
    wide = np.float64 if dtype == np.float64 else np.float32
    return *((x * s).astype(dtype) for x, s in ((q, stretch), (k, 1), (v, 1), (dz, 1))), dlse.astype(wide)


def both_passes(arrays, mask=None, engine="numba", dtype=None, scale=None):
    """z, lse, dq, dk and dv from the arrays of `random_inputs`, cast to `dtype` first where one is given."""
    q, k, v, dz, dlse = arrays if dtype is None else (x.astype(dtype) for x in arrays)
    z, lse, saved = attention_forward(q, k, v, mask=mask, scale=scale, engine=engine)
    return z, lse, *attention_backward(dz, saved, dlse=dlse)
