"""Multi-head attention (MHA; Vaswani et al., arXiv 1706.03762): every head has a map, a key and a value of its own.

For output head i = 0 … n_h − 1:

    Q = X W_Q    K = X W_K    V = X W_V                       RoPE on Q and K, never on V
    A_i = softmax(Q_i K_iᵀ / √d_h + mask)
    Y   = ([A_0 V_0 … A_{n_h−1} V_{n_h−1}] ⊙ gate(X W_G)) W_O     the gate is GTA's, default none

Pairing: head i, map i, key head i, value head i. Cached per token: K and V, 2 n_h·d_h elements.

Stages that `trace` receives, in order: q_proj, k_proj, v, q, k (after RoPE; all (B, n_h, N, d_h)), scores (scaled,
before masking; B, n_h, N_q, N_k), map, z (B, n_h, N, d_h), gate (only if there is one), heads (B, N, n_h·d_h), out (B,
N, H). With qk_norm, q_normed and k_normed (after the RMSNorm) come before v. The stages of the backward have d_ in
front and come in reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gta_ref.errors import as_heads
from gta_ref.mechanisms import headwise
from gta_ref.mechanisms.headwise import HeadwiseConfig, backward, only_with

__all__ = ["Config", "backward", "decode", "forward", "init", "param_shapes", "small_sizes", "structure"]


@dataclass(frozen=True)
class Config(HeadwiseConfig):
    """Sizes of one MHA layer: ``Config(hidden_size, n_heads, head_dim)``.

    Options as in :class:`~gta_ref.mechanisms.headwise_config.HeadwiseConfig`.
    """

    mechanism: ClassVar[str] = "mha"

    @property
    def n_q(self) -> int:
        """Query heads: as many as output heads."""
        return self.n_heads

    @property
    def n_k(self) -> int:
        """Key heads: as many as output heads."""
        return self.n_heads

    @property
    def n_v(self) -> int:
        """Value heads: as many as output heads."""
        return self.n_heads


param_shapes = only_with(Config, headwise.param_shapes)
structure = only_with(Config, headwise.structure)
init = only_with(Config, headwise.init)
forward = only_with(Config, headwise.forward)
decode = only_with(Config, headwise.decode)


def small_sizes(n_heads: int, head_dim: int) -> dict[str, Any]:
    """Sizes for a small model, in the proportions of the published ones; the fields of :class:`Config` but hidden_size.

    Every head has its own map, key and value.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim)
    return {"n_heads": n_heads, "head_dim": head_dim}
