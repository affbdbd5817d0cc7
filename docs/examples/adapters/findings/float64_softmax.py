"""In float64, several attention functions compute their softmax in float32: a gradient check against them fails.

The error against a softmax in float64 is about 1e-7 where float64 gives 1e-16.
"""

from importlib.metadata import version
from types import SimpleNamespace

import jax
import mlx.core as mx
import numpy as np
import torch
from transformers.models.llama.modeling_llama import eager_attention_forward
from x_transformers.attend import Attend

jax.config.update("jax_enable_x64", True)
mx.set_default_device(mx.cpu)
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 64, 16, dtype=torch.float64)
exact = torch.softmax(q @ k.mT / 4, -1) @ v


def eager():
    """Transformers' function; it returns (B, N, heads, width)."""
    module = SimpleNamespace(num_key_value_groups=1, training=False)
    return eager_attention_forward(module, q, k, v, None, scaling=0.25)[0].transpose(1, 2)


def jax_nn():
    """The function of jax.nn, with arrays (B, N, heads, width)."""
    z = jax.nn.dot_product_attention(*(x.transpose(1, 2).numpy() for x in (q, k, v)))
    return torch.from_numpy(np.array(z)).transpose(1, 2)


def mlx_fast():
    """The function of MLX."""
    arrays = (mx.array(x.numpy(), dtype=mx.float64) for x in (q, k, v))
    return torch.from_numpy(np.array(mx.fast.scaled_dot_product_attention(*arrays, scale=0.25)))


def attend():
    """The class of x-transformers."""
    return Attend(heads=2)(q, k, v)[0]


def sdpa():
    """PyTorch's function, for comparison."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


for name, package, attention in (
    ("eager_attention_forward", "transformers", eager),
    ("Attend", "x-transformers", attend),
    ("dot_product_attention", "jax", jax_nn),
    ("fast.scaled_dot_product_attention", "mlx", mlx_fast),
    ("scaled_dot_product_attention", "torch", sdpa),
):
    z = attention()
    print(f"{package} {version(package)} {name}: {z.dtype}, off by {(z - exact).abs().max():.1e}")
