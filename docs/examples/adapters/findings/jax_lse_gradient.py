"""jax.nn.dot_product_attention returns lse, and drops its gradient without a warning.

Blocks of attention over parts of the keys are merged by their lse; the result is right and its gradient is wrong.
"""

import jax

q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 64, 2, 16))
attention = jax.nn.dot_product_attention


def merged(q):
    """Attention over two halves of the keys, merged."""
    z_1, lse_1 = attention(q, k[:, :32], v[:, :32], return_residual=True)
    z_2, lse_2 = attention(q, k[:, 32:], v[:, 32:], return_residual=True)
    w = jax.nn.sigmoid(lse_1 - lse_2)[..., None]
    return w * z_1 + (1 - w) * z_2


def whole(q):
    """The same over all keys at once."""
    return attention(q, k, v)


d_merged, d_whole = (jax.grad(lambda q, f=f: (f(q) * v).sum())(q) for f in (merged, whole))
d_lse = jax.grad(lambda q: attention(q, k, v, return_residual=True)[1].sum())(q)
print("jax", jax.__version__)
print(f"z of the merged blocks is off by {abs(merged(q) - whole(q)).max():.1e}")
print(f"its d_q is off by {abs(d_merged - d_whole).max():.2f}, where d_q is up to {abs(d_whole).max():.2f}")
print(f"largest entry of the gradient of the sum of lse: {abs(d_lse).max():.2f}")
