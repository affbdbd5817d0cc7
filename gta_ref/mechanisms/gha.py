"""Grouped-head attention (GHA; the GTA paper's second step, arXiv 2506.17286): n_q maps crossed with n_v values.

For map m = 0 … n_q − 1 and output head i = 0 … n_h − 1, with r = n_h/n_q, s = n_v/r, q(i) = i // r,
k(m) = m // (n_q/n_k) and b(m) = m // (n_q/s):

    Q = X W_Q    K = X W_K    V = X W_V                       RoPE on Q and K, never on V
    A_m = softmax(Q_m K_{k(m)}ᵀ / √d_h + mask)                n_q maps
    O_i = A_{q(i)} V_{v(i)}    v(i) = b(q(i))·r + i mod r     n_v value heads
    Y   = ([O_0 … O_{n_h−1}] ⊙ gate(X W_G)) W_O               the gate is GTA's, default none

Pairing: the value heads form s blocks of r heads. Each of the n_q/s maps of a block reads all r value heads of the
block and makes one output head from each. So all n_h pairs (q(i), v(i)) differ, although there are fewer maps and
fewer value heads than output heads. The paper does not say which pairs it means; with this choice a block is one
value head, r·d_h wide. s = 1 (n_v = r) crosses every map with every value head; s = n_q (n_v = n_h) is GVA; with
n_q = n_h (r = 1) it is GQA where n_v = n_k, and MHA where all are n_h. Cached per token: K and V, (n_k + n_v)·d_h
elements.

Stages that `trace` receives, in order: q_proj (B, n_q, N, d_h), k_proj (B, n_k, N, d_h), v (B, s, N, r·d_h), q, k
(after RoPE), scores (scaled, before masking; B, n_q, N_q, N_k), map, z (B, n_q, N, r·d_h), gate (only if there is one),
heads (B, N, n_h·d_h), out (B, N, H). With qk_norm, q_normed and k_normed (after the RMSNorm) come before v. The stages
of the backward have d_ in front and come in reverse order.
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
    """Sizes of one GHA layer: ``Config(hidden_size, n_heads, head_dim, n_q, n_k, n_v)``.

    Parameters
    ----------
    n_q : int
        Query heads, that is attention maps; divides n_heads.
    n_k : int
        Key heads; divides n_q.
    n_v : int
        Value heads; a multiple s·r of r = n_heads/n_q whose s divides n_q.
    other parameters : as in :class:`~gta_ref.mechanisms.headwise_config.HeadwiseConfig`
    """

    mechanism: ClassVar[str] = "gha"

    n_q: int
    n_k: int
    n_v: int


param_shapes = only_with(Config, headwise.param_shapes)
structure = only_with(Config, headwise.structure)
init = only_with(Config, headwise.init)
forward = only_with(Config, headwise.forward)
decode = only_with(Config, headwise.decode)


def small_sizes(n_heads: int, head_dim: int) -> dict[str, Any]:
    """Sizes for a small model, in the proportions of the published ones; the fields of :class:`Config` but hidden_size.

    Four heads share a map, and all maps read one key head and the same four value heads.
    """
    n_heads, head_dim = as_heads(n_heads, head_dim, multiple_of=4)
    return {"n_heads": n_heads, "head_dim": head_dim, "n_q": n_heads // 4, "n_k": 1, "n_v": 4}
