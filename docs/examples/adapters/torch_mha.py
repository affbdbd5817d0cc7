"""torch.nn.MultiheadAttention, with the identity for each of its projections."""

from functools import partial

import torch
from torch.func import functional_call

from gta_ref.verify.adapters import torch_core


def attention(q, k, v, seen, need_weights):
    """Attention by a module whose weights are those of the identity; its mask is True where a key is hidden."""
    heads, width = q.shape[1], q.shape[3]
    module = torch.nn.MultiheadAttention(heads * width, heads, bias=False, batch_first=True, dtype=q.dtype)
    eye = torch.eye(heads * width, dtype=q.dtype)
    weights = {"in_proj_weight": eye.repeat(3, 1), "out_proj.weight": eye}
    tokens = tuple(x.transpose(1, 2).flatten(2) for x in (q, k, v))
    hidden = (~seen).expand(-1, heads, -1, -1).flatten(0, 1)
    told = {"attn_mask": hidden, "need_weights": need_weights}
    z, _ = functional_call(module, weights, tokens, told)
    return z.unflatten(-1, (heads, width)).transpose(1, 2)


# it always divides by the root of the width, so that the adapter multiplies q for another scale
with_weights = torch_core(partial(attention, need_weights=True), mask="seen", scale=None, widths="pad")
without_weights = torch_core(partial(attention, need_weights=False), mask="seen", scale=None, widths="pad")
