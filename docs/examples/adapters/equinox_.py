"""equinox.nn.MultiheadAttention, compiled, with the identity for each of its projections."""

import equinox
import jax
import jax.numpy as jnp

from gta_ref.verify.adapters import jax_core

PROJECTIONS = ("query_proj", "key_proj", "value_proj", "output_proj")


@jax.jit
def attention(q, k, v, seen):
    """Attention by a module; it computes one sequence (N, heads · width) at a time."""
    (batch, n_q, heads, d_k), d_v = q.shape, v.shape[-1]
    module = equinox.nn.MultiheadAttention(
        heads,
        heads * d_k,
        value_size=heads * d_v,
        output_size=heads * d_v,
        vo_size=d_v,
        dtype=q.dtype,
        key=jax.random.key(0),
    )
    eyes = [jnp.eye(heads * width, dtype=q.dtype) for width in (d_k, d_k, d_v, d_v)]
    module = equinox.tree_at(lambda module: [getattr(module, name).weight for name in PROJECTIONS], module, eyes)
    tokens = (x.reshape(batch, x.shape[1], heads * x.shape[3]) for x in (q, k, v))
    return jax.vmap(module)(*tokens, seen[:, 0]).reshape(batch, n_q, heads, d_v)


mask = jax_core(attention, mask="seen", scale=None, order="token-major")
