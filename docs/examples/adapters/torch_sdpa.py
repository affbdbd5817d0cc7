"""torch.nn.functional.scaled_dot_product_attention on the CPU, by its backends."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gta_ref.verify.adapters import torch_core


def by(backend, **options):
    """An attention core by one backend of PyTorch; it shares heads by itself."""

    def attention(q, k, v, **told):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, enable_gqa=True, **told)

    return torch_core(attention, heads="grouped", **options)


math_mask = by(SDPBackend.MATH, mask="attn_mask")
math_flag = by(SDPBackend.MATH, causal="is_causal", align="start")
flash_mask = by(SDPBackend.FLASH_ATTENTION, mask="attn_mask", widths="pad")
flash_flag = by(SDPBackend.FLASH_ATTENTION, causal="is_causal", align="start", widths="pad")


def flash_operator(q, k, v, is_causal, scale):
    """The operator that the flash backend calls, which returns lse besides."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)


flash_lse = torch_core(flash_operator, causal="is_causal", align="start", widths="pad", returns=("z", "lse"))
