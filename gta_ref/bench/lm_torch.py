"""The small language models in eager PyTorch, trained with its own AdamW, as a contestant of ``gta-ref bench lm``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.lm import model
from gta_ref.lm.optimizer import BETA_1, BETA_2, EPSILON
from gta_ref.lm.train import Settings


class Model:
    """A decoder language model with GTA or GQA and copies of the given weights.

    Parameters
    ----------
    config : model.Config
        With the mechanism "gta" or "gqa", and a tied head.
    params : dict of str to array
        Weights with the names of gta_ref.
    settings : Settings
    """

    def __init__(self, config: model.Config, params: dict[str, np.ndarray], settings: Settings) -> None:
        import torch

        if config.mechanism not in ("gta", "gqa") or not config.tied:
            raise ValueError(f"mechanism={config.mechanism!r} must be 'gta' or 'gqa', with a tied head")
        self.torch, self.config, self.settings = torch, config, settings
        self.params = {name: torch.from_numpy(p.copy()).requires_grad_() for name, p in params.items()}
        decays: dict[bool, list[Any]] = {True: [], False: []}
        for p in self.params.values():
            decays[p.ndim > 1].append(p)
        groups = [
            {"params": decays[True], "weight_decay": settings.weight_decay},
            {"params": decays[False], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, settings.learning_rate, (BETA_1, BETA_2), EPSILON)
        n = torch.arange(settings.length)[:, None]
        d = config.attention.head_dim
        angle = n * config.attention.rope_theta ** (-torch.arange(0, d, 2).double() / d)
        self.cos, self.sin = angle.cos().float(), angle.sin().float()  # (N, d_h/2)

    def loss(self, ids: np.ndarray, targets: np.ndarray) -> Any:
        """Mean cross-entropy, as a tensor with a graph."""
        torch, functional = self.torch, self.torch.nn.functional
        p, c = self.params, self.config
        x = functional.embedding(torch.from_numpy(ids), p["embed"])
        for i in range(c.n_layers):
            layer = {name.removeprefix(f"layers.{i}."): w for name, w in p.items() if name.startswith(f"layers.{i}.")}
            u = functional.rms_norm(x, (c.hidden_size,), layer["norm_1"], c.norm_eps)
            attention = {name.removeprefix("attention."): w for name, w in layer.items()}
            x = x + (self._gta if c.mechanism == "gta" else self._gqa)(attention, u)
            u = functional.rms_norm(x, (c.hidden_size,), layer["norm_2"], c.norm_eps)
            x = x + (functional.silu(u @ layer["mlp.w_gate"]) * (u @ layer["mlp.w_up"])) @ layer["mlp.w_down"]
        logits = functional.rms_norm(x, (c.hidden_size,), p["norm"], c.norm_eps) @ p["embed"].T
        return functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())

    def step(self, ids: np.ndarray, targets: np.ndarray) -> float:
        """Do one training step with clipped gradients, and return the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(ids, targets)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.params.values(), self.settings.clip)
        self.optimizer.step()
        return float(loss.detach())

    def _heads(self, x: Any, w: Any, n: int) -> Any:
        return (x @ w).unflatten(-1, (n, -1)).transpose(1, 2)

    def _rope(self, x: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return self.torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1)

    def _gqa(self, w: Any, x: Any) -> Any:
        c = self.config.attention
        q, k = self._rope(self._heads(x, w["w_q"], c.n_heads)), self._rope(self._heads(x, w["w_k"], c.n_k))
        z = self._attend(q, k, self._heads(x, w["w_v"], c.n_k))
        return z.transpose(1, 2).flatten(2) @ w["w_o"]

    def _gta(self, w: Any, x: Any) -> Any:
        c = self.config.attention
        q, k = self._rope(self._heads(x, w["w_q"], c.n_q)), self._rope(self._heads(x, w["w_k"], c.n_k))
        z = self._attend(q, k, self._heads(x, w["w_c"], c.n_c))  # (B, n_q, N, d_l)
        values = z @ w["w_p"]
        if c.decoder_residual:
            values = values + z.repeat(1, 1, 1, values.shape[-1] // z.shape[-1])
        return (values.transpose(1, 2).flatten(2) * self.torch.sigmoid(x @ w["w_g"])) @ w["w_o"]

    def _attend(self, q: Any, k: Any, v: Any) -> Any:
        """Attention by PyTorch's fused kernel, which requires d_k = d_v, so that q and k are padded."""
        functional = self.torch.nn.functional
        scale, wider = q.shape[-1] ** -0.5, [0, v.shape[-1] - q.shape[-1]]
        q, k = functional.pad(q, wider), functional.pad(k, wider)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
