"""GTA in PyTorch with autograd, checked with gta_ref: a short example of an implementation outside the library.

gta-ref verify --impl docs.examples.gta_torch:gta --arrays torch \
        --capabilities attention,layer,gta,backward,decode,padding,deterministic
"""

import math

import torch


def attention(q, k, v, visible, scale):
    """q (B, n_q, N, d), k (B, n_k, M, d), v (B, n_v, M, d_v), visible (B, 1, N, M) → z; a blind row gives 0."""
    used = visible.any(dim=2).transpose(1, 2)[:, None]  # (B, 1, M, 1): NaN in a slot that no query sees stays out
    k, v = (torch.where(used, x, 0.0).repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    bias = torch.zeros(visible.shape, dtype=torch.float32, device=q.device).masked_fill(~visible, -math.inf)
    scores = (q @ k.mT) * scale + bias.to(q.dtype)
    blind = ~visible.any(dim=-1, keepdim=True)
    return torch.softmax(scores.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0) @ v


def visible_keys(q_start, k_start, k_stop, n, m, causal=True):
    """The mask's rule: k_start <= j < k_stop and, if causal, j <= q_start + i."""
    key = torch.arange(m)
    seen = (key >= k_start[:, None, None]) & (key < k_stop[:, None, None])
    if causal:
        seen = seen & (key <= q_start[:, None, None] + torch.arange(n)[:, None])
    return seen.expand(-1, n, -1)[:, None]


def rope(x, positions, theta, pairing):
    """Rotate each pair of features of x (B, n, N, d) by its angle."""
    if pairing == "none":
        return x
    d = x.shape[-1]
    angle = positions[:, None, :, None].double() * theta ** (-torch.arange(0, d, 2).double() / d)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if pairing == "half":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


ACTIVATIONS = {"sigmoid": torch.sigmoid, "silu": torch.nn.functional.silu, "relu2": lambda a: torch.relu(a) ** 2}


def layer(p, x, c, positions, cache, start, k_start, k_stop):
    """One GTA layer on tokens start … start + N − 1; `cache` is a list to which k and the latent are appended."""

    def heads(name, n):
        y = x @ p[f"w_{name}"] + p.get(f"b_{name}", 0.0)
        return y.unflatten(-1, (n, -1)).transpose(1, 2)

    theta, pairing = c.get("rope_theta", 10000.0), c.get("rope_pairing", "half")
    q, k = (rope(heads(name, c[f"n_{name}"]), positions, theta, pairing) for name in "qk")
    cache.append((k, heads("c", c["n_c"])))
    keys, latents = (torch.cat(part, dim=2) for part in zip(*cache, strict=True))
    q_start = torch.full_like(k_start, start)
    seen = visible_keys(q_start, k_start, k_stop, x.shape[1], keys.shape[2])
    z = attention(q, keys, latents, seen, c["head_dim"] ** -0.5)  # (B, n_q, N, d_l)
    values = z @ p["w_p"]  # one decoder per map
    if c.get("decoder_residual"):
        values = values + z.repeat(1, 1, 1, values.shape[-1] // z.shape[-1])
    values = values.transpose(1, 2).flatten(2)
    if c.get("gate", "sigmoid") != "none":
        values = values * ACTIVATIONS[c.get("gate", "sigmoid")](x @ p["w_g"] + p.get("b_g", 0.0))
    return values @ p["w_o"]


def gta(arrays, settings):
    """The function that gta_ref calls: it accepts named arrays and returns named arrays."""
    if settings["level"] == "attention":
        q, k, v = (arrays[name].requires_grad_() for name in "qkv")
        bounds = (arrays[name] for name in ("q_start", "k_start", "k_stop"))
        seen = visible_keys(*bounds, q.shape[2], k.shape[2], settings["mask"].get("causal", True))
        z = attention(q, k, v, seen, settings.get("scale") or q.shape[-1] ** -0.5)
        grads = torch.autograd.grad(z, (q, k, v), arrays["d_z"])
        return {"z": z, **{f"d_{name}": grad for name, grad in zip("qkv", grads, strict=True)}}
    c, x = settings["config"], arrays["x"]
    p = {name: a for name, a in arrays.items() if name.startswith(("w_", "b_"))}
    cache = []
    if "chunks" in settings:
        outs, start = [], 0
        for n in settings["chunks"]:
            part, stop = slice(start, start + n), torch.full_like(arrays["k_stop"], start + n)
            outs.append(layer(p, x[:, part], c, arrays["positions"][:, part], cache, start, arrays["k_start"], stop))
            start += n
        return {"out": torch.cat(outs, dim=1)}
    inputs = [a.requires_grad_() for a in (x, *p.values())]
    out = layer(p, x, c, arrays["positions"], cache, 0, arrays["k_start"], arrays["k_stop"])
    grads = torch.autograd.grad(out, inputs, arrays["d_out"])
    return {"out": out, **{f"d_{name}": grad for name, grad in zip(("x", *p), grads, strict=True)}}
