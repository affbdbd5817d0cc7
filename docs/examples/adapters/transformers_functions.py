"""The attention functions of transformers, which all its models share: eager and sdpa."""

from types import SimpleNamespace

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from gta_ref.verify.adapters import torch_core


def by(function, **options):
    """An attention core by one of these functions. Its mask is added, as the models make it: finfo.min is hidden."""

    def attention(q, k, v, scale, seen=None, is_causal=True):
        module = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1], training=False, is_causal=is_causal)
        bias = None
        if seen is not None:
            bias = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)
        return function(module, q, k, v, bias, scaling=scale, dropout=0.0)[0].transpose(1, 2)

    return torch_core(attention, heads="grouped", **options)


eager = by(eager_attention_forward, mask="seen")
sdpa_mask = by(sdpa_attention_forward, mask="seen")
sdpa_flag = by(sdpa_attention_forward, causal="is_causal", align="start")
