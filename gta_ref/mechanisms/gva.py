"""Grouped-value attention (GVA; the GTA paper's first step, arXiv 2506.17286): heads share maps, not values.

For map m = 0 … n_q − 1 and output head i = 0 … n_h − 1, with r = n_h/n_q and q(i) = i // r:

    Q = X W_Q    K = X W_K    V = X W_V                       RoPE on Q and K, never on V
    A_m = softmax(Q_m K_mᵀ / √d_h + mask)                     n_q maps, each with its own key head: n_k = n_q
    Y   = ([A_{q(0)} V_0 … A_{q(n_h−1)} V_{n_h−1}] ⊙ gate(X W_G)) W_O     the gate is GTA's, default none

Pairing: runs of r heads share a map; head i has value head i. The r value heads of a map lie side by side as
one wide head of r·d_h. n_q = n_h is MHA. Cached per token: K and V, n_q·d_h + n_h·d_h elements. The paper
introduces the mechanism and does not evaluate it.

Stages that `trace` receives, in order: q_proj and k_proj (B, n_q, N, d_h), v (B, n_q, N, r·d_h), q, k (after RoPE),
scores (scaled, before masking; B, n_q, N_q, N_k), map, z (B, n_q, N, r·d_h), gate (only if there is one), heads (B, N,
n_h·d_h), out (B, N, H). With qk_norm, q_normed and k_normed (after the RMSNorm) come before v. The stages of the
backward have d_ in front and come in reverse order.
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
    """Sizes of one GVA layer: ``Config(hidden_size, n_heads, head_dim, n_q)``.

    Parameters
    ----------
    n_q : int
        Query heads, that is attention maps, and key heads; divides n_heads.
    other parameters : as in :class:`~gta_ref.mechanisms.headwise_config.HeadwiseConfig`
    """

    mechanism: ClassVar[str] = "gva"

    n_q: int

    @property
    def n_k(self) -> int:
        """Key heads: as many as maps."""
        return self.n_q

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

    Four heads share a map, as in GTA-1B.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim, multiple_of=4)
    return {"n_heads": n_heads, "head_dim": head_dim, "n_q": n_heads // 4}
