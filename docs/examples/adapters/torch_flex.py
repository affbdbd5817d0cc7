"""torch.nn.attention.flex_attention, not compiled: the mask is a function of (batch, head, query, key)."""

import warnings

from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from gta_ref.verify.adapters import torch_core

warnings.filterwarnings("ignore", "flex_attention called without torch.compile")


def attention(q, k, v, seen, scale):
    """Make a block mask from a boolean mask (B, 1, N_q, N_k)."""

    def visible(b, h, i, j):
        return seen[b, 0, i, j]

    block_mask = create_block_mask(visible, q.shape[0], None, q.shape[2], k.shape[2], device=q.device)
    z, aux = flex_attention(
        q, k, v, block_mask=block_mask, scale=scale, enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    return z, aux.lse


eager = torch_core(attention, mask="seen", heads="grouped", returns=("z", "lse"), backward=False)
