"""PyTorch's FlexAttention, not compiled, raises on a CPU where there is no key; the result would be 0."""

import warnings

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

warnings.filterwarnings("ignore")


def causal(batch, head, i, j):
    """Whether row i sees key j."""
    return j <= i


def attempt(function):
    """The shape of a result, or the error."""
    try:
        return tuple(function().shape)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


print("torch", torch.__version__)
for n_q, n_k in ((4, 4), (4, 0), (0, 4), (0, 0)):
    q, k = torch.zeros(1, 2, n_q, 16), torch.zeros(1, 2, n_k, 16)
    print(f"N_q = {n_q}, N_k = {n_k}")
    print("  flex_attention:", attempt(lambda q=q, k=k: flex_attention(q, k, k)))
    print("  create_block_mask:", attempt(lambda m=n_q, n=n_k: create_block_mask(causal, 1, 1, m, n, device="cpu")))
