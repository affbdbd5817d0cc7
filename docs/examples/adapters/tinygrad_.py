"""tinygrad's Tensor.scaled_dot_product_attention on the CPU, for which tinygrad needs the compiler clang.

The verification kit has no arrays of tinygrad, so that this is a pair of functions of NumPy arrays.
"""

from tinygrad import Tensor

from gta_ref.verify.adapters import numpy_core


def attention(q, k, v, seen=None, is_causal=False):
    """The result, and what its backward needs."""
    inputs = [Tensor(x.copy()) for x in (q, k, v)]
    mask = None if seen is None else Tensor(seen)
    grouped = q.shape[1] != k.shape[1]
    z = inputs[0].scaled_dot_product_attention(*inputs[1:], attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)
    return z.numpy(), inputs, z


def backward(d_z, q, k, v, found, inputs, z, **told):
    """The gradients of q, k and v."""
    return [x.numpy() for x in z.gradient(*inputs, gradient=Tensor(d_z.copy()))]


mask = numpy_core(attention, backward, mask="seen", scale=None, heads="grouped")
flag = numpy_core(attention, backward, causal="is_causal", align="start", scale=None, heads="grouped")
