"""mlx.core.fast.scaled_dot_product_attention on the CPU."""

import mlx.core as mx
from mlx.core.fast import scaled_dot_product_attention

from gta_ref.verify.adapters import mlx_core

mx.set_default_device(mx.cpu)


def causal_attention(q, k, v, causal, scale):
    """Its causal mask is named by a text."""
    return scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if causal else None)


mask = mlx_core(scaled_dot_product_attention, mask="mask", heads="grouped")
flag = mlx_core(causal_attention, causal="causal", heads="grouped")
