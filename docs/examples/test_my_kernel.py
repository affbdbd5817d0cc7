"""An attention kernel in PyTorch, tested case by case.

pytest docs/examples/test_my_kernel.py
"""

import pytest
import torch


def my_kernel(q, k, v, q_start, k_start, k_stop, causal, scale):
    """z for q (B, n_q, N_q, d_k), k (B, n_k, N_k, d_k), v (B, n_v, N_k, d_v) and bounds (B,): put yours here."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    seen = (j >= k_start[:, None, None]) & (j < k_stop[:, None, None]) & (i >= 0)
    if causal:
        seen = seen & (j <= q_start[:, None, None] + i)
    used = seen.any(dim=1)[:, None, :, None]  # NaN in a slot that no query sees stays out
    k, v = torch.where(used, k, 0.0), torch.where(used, v, 0.0)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, seen[:, None], scale=scale)


@pytest.mark.gta_suite("attention", capabilities={"attention", "backward", "decode", "padding"})
def test_my_kernel(gta_case):
    """One test for each case of the suite."""
    arrays, settings = gta_case.arrays("torch"), gta_case.settings
    q, k, v = (arrays[name].requires_grad_() for name in "qkv")
    bounds = (arrays[name] for name in ("q_start", "k_start", "k_stop"))
    causal, scale = settings["mask"].get("causal", True), settings.get("scale") or q.shape[-1] ** -0.5
    z = my_kernel(q, k, v, *bounds, causal, scale)
    d_q, d_k, d_v = torch.autograd.grad(z, (q, k, v), arrays["d_z"])
    gta_case.check({"z": z, "d_q": d_q, "d_k": d_k, "d_v": d_v}, wanted=("z", "d_q", "d_k", "d_v"))
