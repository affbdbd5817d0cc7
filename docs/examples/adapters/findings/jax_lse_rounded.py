"""jax.nn.dot_product_attention rounds lse to the dtype of its inputs, where the softmax itself is in float32.

A merge of blocks by exp(lse_1 - lse_2) is as wrong as lse is; in bfloat16 that is up to 1/256 of the magnitude of lse.
"""

import jax
import jax.numpy as jnp

# 1024 keys, so that lse is about 7.4
q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 1024, 1, 64), jnp.bfloat16)
_, lse = jax.nn.dot_product_attention(q, k, v, return_residual=True)
wide = (x.astype(jnp.float32) for x in (q, k, v))
_, exact = jax.nn.dot_product_attention(*wide, return_residual=True)
print("jax", jax.__version__)
print("dtype of lse for bfloat16:", lse.dtype)
print(f"lse is about {exact.mean():.1f} and off by up to {abs(lse.astype(jnp.float32) - exact).max():.3f}")
