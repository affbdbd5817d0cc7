"""x-transformers shares grouped heads by tiling: query head i reads key head i mod n_k.

Elsewhere, as in Llama, query head i reads key head i // (n_q / n_k); the order of heads in a checkpoint depends on it.
"""

from importlib.metadata import version

import torch
from torch.nn.functional import scaled_dot_product_attention
from x_transformers.attend import Attend

torch.manual_seed(0)
q, k, v = torch.randn(1, 8, 5, 16), torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16)
grouped = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
tiled = scaled_dot_product_attention(q, k.repeat(1, 4, 1, 1), v.repeat(1, 4, 1, 1), is_causal=True)
print("x-transformers", version("x-transformers"))
for flash in (False, True):
    z = Attend(heads=8, causal=True, flash=flash)(q, k, v)[0]
    off = [(z - x).abs().max() for x in (grouped, tiled)]
    print(f"flash={flash}: {off[0]:.1e} from grouped heads, {off[1]:.1e} from tiled")
