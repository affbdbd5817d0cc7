"""Grouped-query attention (GQA; Ainslie et al., arXiv 2305.13245): heads share keys and values, not maps.

For output head i = 0 … n_h − 1, with k(i) = i // (n_h/n_k):

    Q = X W_Q    K = X W_K    V = X W_V                       RoPE on Q and K, never on V
    A_i = softmax(Q_i K_{k(i)}ᵀ / √d_h + mask)                still n_h maps
    Y   = ([A_0 V_{k(0)} … A_{n_h−1} V_{k(n_h−1)}] ⊙ gate(X W_G)) W_O     the gate is GTA's, default none

Pairing: head i has its own map; each run of n_h/n_k heads shares a key head and the value head of the same number.
n_k = 1 is multi-query attention (MQA; Shazeer, arXiv 1911.02150), n_k = n_h is MHA. Cached per token: K and V, 2
n_k·d_h elements.

Stages that `trace` receives, in order: q_proj (B, n_h, N, d_h), k_proj and v (B, n_k, N, d_h), q, k (after RoPE),
scores (scaled, before masking; B, n_h, N_q, N_k), map, z (B, n_h, N, d_h), gate (only if there is one), heads (B, N,
n_h·d_h), out (B, N, H). With qk_norm, q_normed and k_normed (after the RMSNorm) come before v. The stages of the
backward have d_ in front and come in reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gta_ref.errors import as_heads, check_choice
from gta_ref.mechanisms import headwise
from gta_ref.mechanisms.headwise import HeadwiseConfig, backward, only_with

__all__ = ["Config", "backward", "decode", "forward", "init", "param_shapes", "small_sizes", "structure"]

# name: (H, n_h, d_h, n_k)
_PUBLISHED = {"gqa-1b": (1280, 20, 64, 5)}


@dataclass(frozen=True)
class Config(HeadwiseConfig):
    """Sizes of one GQA layer: ``Config(hidden_size, n_heads, head_dim, n_k)``.

    Parameters
    ----------
    n_k : int
        Key heads, and value heads; divides n_heads.
    other parameters : as in :class:`~gta_ref.mechanisms.headwise_config.HeadwiseConfig`
    """

    mechanism: ClassVar[str] = "gqa"

    n_k: int

    @property
    def n_q(self) -> int:
        """Query heads: as many as output heads."""
        return self.n_heads

    @property
    def n_v(self) -> int:
        """Value heads: as many as key heads."""
        return self.n_k

    @classmethod
    def preset(cls, name: str) -> Config:
        """A published configuration by name: "gqa-1b", the baseline of the paper's GTA-1B."""
        check_choice("preset", name, tuple(_PUBLISHED))
        return cls(*_PUBLISHED[name])


param_shapes = only_with(Config, headwise.param_shapes)
structure = only_with(Config, headwise.structure)
init = only_with(Config, headwise.init)
forward = only_with(Config, headwise.forward)
decode = only_with(Config, headwise.decode)


def small_sizes(n_heads: int, head_dim: int) -> dict[str, Any]:
    """Sizes for a small model, in the proportions of the published ones; the fields of :class:`Config` but hidden_size.

    Four heads share a key head and a value head, as in GQA-1B.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim, multiple_of=4)
    return {"n_heads": n_heads, "head_dim": head_dim, "n_k": n_heads // 4}
