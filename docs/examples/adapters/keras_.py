"""Keras with PyTorch as its backend: ops.dot_product_attention, and the layers with the identity as projections."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

from gta_ref.verify.adapters import torch_core

attention = keras.ops.dot_product_attention
ops_mask = torch_core(attention, mask="mask", heads="grouped", order="token-major")
ops_flag = torch_core(attention, causal="is_causal", align="start", heads="grouped", order="token-major")


def by(make):
    """A function (q, k, v, seen) by a layer, whose projections get the weights of the identity."""

    def attention(q, k, v, seen):
        (batch, n_q, heads, d_k), (*_, n_k, d_v) = q.shape, v.shape
        layer = make(heads, n_k, d_k, d_v, str(q.dtype).removeprefix("torch."))
        tokens = [x.flatten(2) for x in (q, v, k)]
        layer.build(*(tuple(x.shape) for x in tokens))
        for dense, n, width in (
            (layer._query_dense, heads, d_k),
            (layer._key_dense, n_k, d_k),
            (layer._value_dense, n_k, d_v),
        ):
            dense.kernel.assign(torch.eye(n * width).reshape(n * width, n, width))
        layer._output_dense.kernel.assign(torch.eye(heads * d_v).reshape(heads, d_v, heads * d_v))
        return layer(*tokens, attention_mask=seen[:, 0]).reshape(batch, n_q, heads, d_v)

    return attention


def multi_head(heads, n_k, d_k, d_v, dtype):
    """MultiHeadAttention, which has one head of keys and values for each of queries."""
    return keras.layers.MultiHeadAttention(
        heads, d_k, value_dim=d_v, output_shape=heads * d_v, use_bias=False, dtype=dtype
    )


def grouped_query(heads, n_k, d_k, d_v, dtype):
    """GroupQueryAttention, which has one width."""
    return keras.layers.GroupQueryAttention(d_k, heads, n_k, use_bias=False, dtype=dtype)


multi_head_layer = torch_core(by(multi_head), mask="seen", scale=None, order="token-major")
grouped_query_layer = torch_core(
    by(grouped_query), mask="seen", scale=None, heads="grouped", widths="pad", order="token-major"
)
