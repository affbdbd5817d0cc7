"""The two ends that mechanisms other than GTA share: x → q, k, v before the attention core, values → out after it.

    Q = X W_Q + b_Q    K = X W_K + b_K    V = X W_V + b_V      RoPE on Q and K, before it an RMSNorm per head if wanted
    out = (values ⊙ gate(X W_G + b_G)) W_O                     the gate is GTA's; others may do without

GTA has both ends written out in its own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gta_ref.mechanisms.headwise_config import HeadwiseConfig
from gta_ref.ops import (
    Array,
    gate_backward,
    gate_forward,
    linear_backward,
    linear_forward,
    rmsnorm_backward,
    rmsnorm_forward,
    rope_backward,
    rope_forward,
    rope_tables,
)
from gta_ref.ops.arrays import Params, Trace
from gta_ref.ops.heads import merge_heads, split_heads


class QKV(NamedTuple):
    """What :func:`qkv_backward` needs."""

    linear_q: Any
    linear_k: Any
    linear_v: Any
    norm_q: Any  # None without the norm, as norm_k
    norm_k: Any
    rope_q: Any
    rope_k: Any


class Output(NamedTuple):
    """What :func:`output_backward` needs; the gate's fields are None without a gate."""

    values: Array
    gate: Array | None
    gate_linear: Any
    gate_activation: Any
    linear: Any


def qkv_forward(
    params: Params, x: Array, config: HeadwiseConfig, positions: Array, trace: Trace | None = None
) -> tuple[Array, Array, Array, QKV]:
    """Project every token and turn q and k by its position.

    Parameters
    ----------
    params : dict with w_q, w_k, w_v; where there are biases, b_q, b_k, b_v; with qk_norm, norm_q and norm_k
    x : (B, N, H)
    config : HeadwiseConfig
    positions : (N,) or (1 or B, N), integers
    trace : dict, optional
        Receives q_proj, k_proj, with qk_norm q_normed and k_normed, v, q, k.

    Returns
    -------
    q, k : (B, n_q or n_k, N, d_h), after RoPE
    v : (B, s, N, r·d_h), the blocks of value heads
    saved : for :func:`qkv_backward`
    """
    q_flat, linear_q = linear_forward(x, params["w_q"], params.get("b_q"))
    k_flat, linear_k = linear_forward(x, params["w_k"], params.get("b_k"))
    v_flat, linear_v = linear_forward(x, params["w_v"], params.get("b_v"))
    q_proj, k_proj = split_heads(q_flat, config.n_q), split_heads(k_flat, config.n_k)  # (B, n, N, d_h)
    v = split_heads(v_flat, config.n_blocks)
    stages = {"q_proj": q_proj, "k_proj": k_proj}
    q_normed, k_normed, norm_q, norm_k = q_proj, k_proj, None, None
    if config.qk_norm:  # over the features of each head; the gain is one for all heads
        q_normed, norm_q = rmsnorm_forward(q_proj, params["norm_q"], config.norm_eps)
        k_normed, norm_k = rmsnorm_forward(k_proj, params["norm_k"], config.norm_eps)
        stages |= {"q_normed": q_normed, "k_normed": k_normed}
    theta, pairing = config.rope_theta, config.rope_pairing
    cos, sin = rope_tables(q_proj, positions, theta, pairing, config.rope_frequencies, config.rope_magnitude)
    q, rope_q = rope_forward(q_normed, cos, sin, pairing)
    k, rope_k = rope_forward(k_normed, cos, sin, pairing)
    if trace is not None:
        trace |= {**stages, "v": v, "q": q, "k": k}
    return q, k, v, QKV(linear_q, linear_k, linear_v, norm_q, norm_k, rope_q, rope_k)


def qkv_backward(
    dq: Array, dk: Array, dv: Array, saved: QKV, trace: Trace | None = None
) -> tuple[list[Array], dict[str, Array | None]]:
    """Three contributions to dx, and the gradients of projections and norms (None for a bias that is not there).

    `trace` receives d_k, d_q, d_v, with qk_norm d_k_normed and d_q_normed, d_k_proj, d_q_proj.
    """
    dx: list[Array] = []
    grads: dict[str, Array | None] = {}
    stages = {"d_k": dk, "d_q": dq, "d_v": dv}
    d_k_proj, d_q_proj = rope_backward(dk, saved.rope_k), rope_backward(dq, saved.rope_q)
    if saved.norm_q is not None:
        stages |= {"d_k_normed": d_k_proj, "d_q_normed": d_q_proj}
        d_k_proj, grads["norm_k"] = rmsnorm_backward(d_k_proj, saved.norm_k)
        d_q_proj, grads["norm_q"] = rmsnorm_backward(d_q_proj, saved.norm_q)
    if trace is not None:
        trace |= {**stages, "d_k_proj": d_k_proj, "d_q_proj": d_q_proj}
    for name, d_heads, linear in (
        ("q", d_q_proj, saved.linear_q),
        ("k", d_k_proj, saved.linear_k),
        ("v", dv, saved.linear_v),
    ):
        part, grads[f"w_{name}"], grads[f"b_{name}"] = linear_backward(merge_heads(d_heads), linear)
        dx.append(part)
    return dx, grads


def output_forward(
    params: Params, x: Array, values: Array, gate: str, trace: Trace | None = None
) -> tuple[Array, Output]:
    """Gate the heads' values with the query's own token and project them.

    Parameters
    ----------
    params : dict with w_o and, with a gate, w_g; b_o and b_g where there are biases
    x : (B, N, H)
        The query's tokens, never the keys'.
    values : (B, N, n_h·d_h)
        All heads side by side.
    gate : str
        Its activation, or "none".
    trace : dict, optional
        Receives gate (after its activation), heads, out.

    Returns
    -------
    out : (B, N, H)
    saved : for :func:`output_backward`
    """
    heads, g, gate_linear, gate_activation = values, None, None, None
    if gate != "none":
        a, gate_linear = linear_forward(x, params["w_g"], params.get("b_g"))
        g, gate_activation = gate_forward(a, gate)  # (B, N, n_h·d_h)
        heads = values * g
    out, linear = linear_forward(heads, params["w_o"], params.get("b_o"))  # (B, N, H)
    if trace is not None:
        trace |= {"heads": heads, "out": out} if g is None else {"gate": g, "heads": heads, "out": out}
    return out, Output(values, g, gate_linear, gate_activation, linear)


def output_backward(
    dout: Array, saved: Output, trace: Trace | None = None
) -> tuple[Array, list[Array], dict[str, Array | None]]:
    """d_values (B, N, n_h·d_h), the gate's contribution to dx (none without a gate), and the gradients.

    `trace` receives d_out, d_heads, d_gate.
    """
    grads: dict[str, Array | None] = {}
    d_heads, grads["w_o"], grads["b_o"] = linear_backward(dout, saved.linear)
    stages = {"d_out": dout, "d_heads": d_heads}
    d_values, dx = d_heads, []
    if saved.gate is not None:
        d_gate, d_values = d_heads * saved.values, d_heads * saved.gate
        stages["d_gate"] = d_gate
        da = gate_backward(d_gate, saved.gate_activation)
        part, grads["w_g"], grads["b_g"] = linear_backward(da, saved.gate_linear)
        dx.append(part)
    if trace is not None:
        trace |= stages
    return d_values, dx, grads


def present(grads: Mapping[str, Array | None], names: Iterable[str]) -> dict[str, Array]:
    """The gradients of the parameters `names`, in their order; None stands for a bias that the layer does not have."""
    return {name: grad for name in names if (grad := grads[name]) is not None}
