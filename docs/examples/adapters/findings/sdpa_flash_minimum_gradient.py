"""A mask of finfo.min: z of a row that sees nothing is the mean of v, its gradient is not that of the mean."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

q, k, v = (torch.randn(1, 1, 4, 16, requires_grad=True) for _ in range(3))
mask = torch.full((1, 1, 4, 4), torch.finfo(torch.float32).min)  # no row sees any key
for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
    with sdpa_kernel(backend):
        z = scaled_dot_product_attention(q, k, v, mask)
    (d_v,) = torch.autograd.grad(z.sum(), v)  # of the mean: 4 rows times 1/4 is 1
    print(backend.name, "z is the mean:", torch.allclose(z, v.mean(2, keepdim=True)), "d_v:", d_v[0, 0, 0, 0].item())
