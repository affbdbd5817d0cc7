"""jax.nn.dot_product_attention in float16 on a CPU runs eagerly and under grad, and raises under jit."""

import jax
import jax.numpy as jnp

x = jnp.ones((1, 4, 2, 8), jnp.float16)


def attention(x):
    """Self-attention of x, (B, N, heads, width)."""
    return jax.nn.dot_product_attention(x, x, x)


def total(x):
    """A number to differentiate."""
    return attention(x).astype(jnp.float32).sum()


print("jax", jax.__version__, "on", jax.default_backend())
for name, function in (("eager", attention), ("jit", jax.jit(attention)), ("grad", jax.grad(total))):
    for precision in ("default", "highest"):
        try:
            with jax.default_matmul_precision(precision):
                text = function(x).dtype
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"{name}, precision {precision}: {text}")
