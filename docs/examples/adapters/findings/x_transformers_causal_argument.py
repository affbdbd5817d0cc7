"""In x-transformers, a call's argument causal=True is ignored where the layers were made with attn_flash=True."""

from importlib.metadata import version

import torch
from x_transformers import Encoder

print("x-transformers", version("x-transformers"))
for flash in (False, True):
    torch.manual_seed(0)
    encoder = Encoder(dim=16, depth=1, heads=2, attn_flash=flash).eval()
    x = torch.randn(1, 4, 16)
    other = torch.cat([x[:, :-1], torch.randn(1, 1, 16)], 1)  # another last token
    with torch.no_grad():
        change = (encoder(x, causal=True) - encoder(other, causal=True))[:, :-1].abs().max()
    print(f"attn_flash={flash}: the tokens before the last change by up to {change:.2f}")
