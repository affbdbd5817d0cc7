"""The class Attend of x-transformers, which its layers use; with flash=True it calls PyTorch's function."""

from functools import partial

from x_transformers.attend import Attend

from gta_ref.verify.adapters import torch_core


def attention(q, k, v, scale, seen=None, causal=False, flash=False):
    """Attention by an object made for the call."""
    return Attend(heads=q.shape[1], causal=causal, scale=scale, flash=flash)(q, k, v, mask=seen)[0]


flash = partial(attention, flash=True)
mask = torch_core(attention, mask="seen", heads="grouped")
flag = torch_core(attention, causal="causal", heads="grouped")
flash_mask = torch_core(flash, mask="seen", heads="grouped")
flash_flag = torch_core(flash, causal="causal", heads="grouped")
