"""Known mistakes in a model; :mod:`gta_ref.verify.models.causes` compares a candidate with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gta_ref.core import Mask
from gta_ref.ops import Array, as_dtype
from gta_ref.ops.arrays import STORAGE_DTYPES
from gta_ref.ops.gate import sigmoid
from gta_ref.verify.models.block import Block, Head, Norm, Stages
from gta_ref.verify.models.causes import SCORES, Change

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12)
THETAS = (1e4, 1e5, 5e5, 1e6)


@dataclass(frozen=True)
class _Rows:
    """An embedding that is wrong."""

    rows: Array

    def run(self, x: Array) -> Stages:
        return {"embedding": self.rows.astype(np.float64)}


def embedding_changes(table: Array, ids: Array) -> Iterator[Change]:
    """Known mistakes in the embedding."""
    root = np.sqrt(table.shape[1])
    yield Change("the embedding is multiplied by √H", _Rows(table[ids].astype(np.float64) * root))
    yield Change("the embedding is divided by √H", _Rows(table[ids].astype(np.float64) / root))
    yield Change("the tokens are one place late", _Rows(table[np.roll(ids, 1, axis=1)]))
    yield Change("the tokens are one place early", _Rows(table[np.roll(ids, -1, axis=1)]))
    for sign, by in (("+", 1), ("−", -1)):
        rows = table[np.clip(ids + by, 0, len(table) - 1)]
        yield Change(f"the row of id {sign} 1 is read instead of that of the id", _Rows(rows))


@dataclass(frozen=True)
class _Unnormed:
    """A head whose input was dumped in place of the final norm, as the last of the hidden states."""

    head: Head

    def run(self, x: Array) -> Stages:
        return {**self.head.run(x), "norm": x}


def head_changes(head: Head, embed: Array | None) -> Iterator[Change]:
    """Known mistakes in the final norm and the head; `embed` is the embedding if the head is another matrix."""
    for cause, norm in norm_changes(head.norm, "the final norm"):
        yield Change(cause, replace(head, norm=norm))
    yield Change("it was taken before the final norm", _Unnormed(head))
    if embed is not None:
        yield Change("the head is tied to the embedding", replace(head, matrix=embed.T.astype(np.float64)))


def norm_changes(norm: Norm, what: str) -> Iterator[tuple[str, Norm]]:
    """Known mistakes in an RMSNorm."""
    for eps in EPSILONS:
        if eps != norm.eps:
            yield f"{what} has eps {eps:g} instead of {norm.eps:g}", norm._replace(eps=eps)
    yield f"{what} is missing", norm._replace(compute=lambda x, gain, eps: x)
    yield f"{what} has no gain", norm._replace(gain=np.ones_like(norm.gain))
    yield f"{what} multiplies by 1 + gain", norm._replace(gain=1 + norm.gain)
    yield f"{what} adds eps outside the root", norm._replace(compute=_eps_outside)
    yield f"{what} is a LayerNorm: it subtracts the mean", norm._replace(compute=_layernorm)


def block_changes(block: Block, others: Iterator[tuple[int, Block]]) -> Iterator[Change]:
    """Known mistakes in a block; `others` are the model's other blocks with their numbers."""
    for field, what in (("norm_1", "the norm before the attention"), ("norm_2", "the norm before the feed-forward")):
        for cause, norm in norm_changes(getattr(block, field), what):
            yield Change(cause, _with(block, **{field: norm}))
    yield from _rope(block)
    yield from _scale(block)
    for cause, mask in (
        ("there is no causal mask", Mask(causal=False)),
        ("a token sees the one after it", Mask(q_start=1)),
        ("a token does not see itself", Mask(q_start=-1)),
    ):
        yield Change(cause, replace(block, mask=mask))
    yield from _heads(block)
    yield from _weights(block)
    yield from _around(block)
    for i, other in others:
        yield Change(f"it has the weights of block {i}", other)


def _rope(block: Block) -> Iterator[Change]:
    for cause, positions in (
        ("the positions begin at 1", block.positions + 1),
        ("RoPE turns the other way", -block.positions),
        ("all positions are 0", 0 * block.positions),
    ):
        yield Change(cause, replace(block, positions=positions))
    pairing = getattr(block.attention, "rope_pairing", "none")
    if pairing == "none":
        return
    if getattr(block.attention, "rope_frequencies", None) is not None:
        yield from _attention(block, "RoPE's frequencies are not scaled", rope_frequencies=None)
        yield from _attention(block, "RoPE is not scaled", rope_frequencies=None, rope_magnitude=1.0)
    if getattr(block.attention, "rope_magnitude", 1.0) != 1.0:
        yield from _attention(block, "RoPE's magnitude is 1", rope_magnitude=1.0)
    c = block.attention
    if hasattr(c, "rope_frequencies"):  # as .half() or .to(bfloat16) does to a model that keeps them in a buffer
        d = getattr(c, "rope_dim", None) or c.head_dim
        exact = np.array(c.rope_frequencies or c.rope_theta ** (-np.arange(0, d, 2) / d))
        for dtype in STORAGE_DTYPES:
            rounded = exact.astype(as_dtype(dtype)).astype(np.float64)
            yield from _attention(block, f"RoPE's frequencies are rounded to {dtype}", rope_frequencies=[*rounded])
    other = {"half": "interleaved", "interleaved": "half"}[pairing]
    yield from _attention(block, f"RoPE pairs features as {other!r} instead of {pairing!r}", rope_pairing=other)
    for theta in THETAS:
        if theta != block.attention.rope_theta:
            yield from _attention(
                block, f"RoPE's θ is {theta:g} instead of {block.attention.rope_theta:g}", rope_theta=theta
            )


def _scale(block: Block) -> Iterator[Change]:
    c = block.attention
    d_k = c.nope_dim + c.rope_dim if hasattr(c, "nope_dim") else c.head_dim
    scales = {"1": 1.0, "1/d": 1 / d_k, "1/√d": d_k**-0.5, "1/√H": c.hidden_size**-0.5}
    scales["1/√(H/n_heads)"] = (c.hidden_size / c.n_heads) ** -0.5
    if hasattr(c, "nope_dim"):
        scales["1/√d_nope"] = c.nope_dim**-0.5
    for name, scale in scales.items():
        if np.isclose(scale, c.scale, rtol=1e-9):
            continue
        cause = f"the factor on the scores is {name}, {scale:.4g}, instead of {c.scale:.4g}"
        if hasattr(c, "score_scale"):
            yield from _attention(block, cause, score_scale=scale)
        else:  # GTA's is fixed: its queries are multiplied instead
            factor = scale / c.scale
            queries = {n: w * factor for n, w in block.params.items() if n in ("attention.w_q", "attention.b_q")}
            yield Change(cause, replace(block, params={**block.params, **queries}), SCORES)


def _heads(block: Block) -> Iterator[Change]:
    """Key and value heads that are tiled, 0 1 0 1, in place of being repeated, 0 0 1 1; heads merged wrongly."""
    c, counts = block.attention, {}
    if block.mechanism.__name__.endswith(".gqa"):
        counts, sizes = {"k": c.n_k, "v": c.n_k}, {"n_k": c.n_q}
    elif block.mechanism.__name__.endswith(".gta"):
        counts, sizes = {"k": c.n_k, "c": c.n_c}, {"n_k": c.n_q, "n_c": c.n_q}
    if any(1 < n < c.n_q for n in counts.values()):
        params = dict(block.params)
        for letter, n in counts.items():
            order = np.arange(c.n_q) % n
            for name in (f"attention.w_{letter}", f"attention.b_{letter}"):
                if name in params:
                    w = params[name].reshape(*params[name].shape[:-1], n, -1)[..., order, :]
                    params[name] = w.reshape(*w.shape[:-2], -1)
        yield Change(
            "query head i reads key head i mod n_k: the heads are tiled instead of repeated",
            replace(block, params=params, attention=replace(c, **sizes)),
            SCORES,
        )
    if getattr(c, "gate", "none") == "none" and "attention.w_p" not in block.params:
        merged = replace(block, merge=lambda z: z.reshape(z.shape[0], z.shape[2], -1))
        yield Change("the heads are merged without exchanging the axes of heads and tokens", merged)


def _weights(block: Block) -> Iterator[Change]:
    for name, w in block.params.items():
        plain = name.rpartition(".")[2]
        if w.ndim == 2 and w.shape[0] == w.shape[1]:
            yield Change(f"{plain} is transposed", replace(block, params={**block.params, name: w.T}))
        if plain.startswith("b_"):
            yield Change(f"the bias {plain} is missing", replace(block, params={**block.params, name: 0 * w}))
    if getattr(block.attention, "qk_norm", False):
        params = {n: w for n, w in block.params.items() if not n.startswith("attention.norm_")}
        yield from _attention(replace(block, params=params), "queries and keys are not normed", qk_norm=False)
    if "attention.w_p" in block.params:
        w = block.params["attention.w_p"]
        turned = w.reshape(w.shape[2], -1).T.reshape(w.shape)
        cause = "the decoder's memory (e·d_l, n_q·d_l) is transposed instead of reinterpreted"
        yield Change(cause, replace(block, params={**block.params, "attention.w_p": turned}))
        residual = block.attention.decoder_residual
        cause = "the decoder's residual is " + ("missing" if residual else "added, and the model has none")
        yield from _attention(block, cause, decoder_residual=not residual)
    for gate in ("sigmoid", "silu", "relu2"):
        if getattr(block.attention, "gate", "none") not in ("none", gate):
            yield from _attention(block, f"the gate's activation is {gate}", gate=gate)
    if getattr(block.attention, "gate", "none") != "none":
        params = {n: w for n, w in block.params.items() if n not in ("attention.w_g", "attention.b_g")}
        yield from _attention(replace(block, params=params), "the gate is missing", gate="none")


def _around(block: Block) -> Iterator[Change]:
    """Residuals and the feed-forward's activation."""
    for field, what in (("residual_1", "the attention"), ("residual_2", "the feed-forward")):
        joins: dict[str, Callable[[Array, Array, Array], Array]] = {
            f"the residual around {what} is missing": lambda x, normed, out: out,
            f"the residual around {what} adds the normed input": lambda x, normed, out: normed + out,
            f"the output of {what} is not added": lambda x, normed, out: x,
        }
        for cause, join in joins.items():
            yield Change(cause, _with(block, **{field: join}))
    kept: dict[str, Any] = {"residual_1": lambda x, normed, out: x, "residual_2": lambda x, normed, out: x}
    yield Change("the block is skipped", _with(block, **kept), "output")
    for cause, activate in (
        ("gate and up are exchanged", lambda a, b: _silu(b) * a),
        ("the feed-forward's activation is GELU, in its tanh form, instead of SiLU", lambda a, b: _gelu(a) * b),
        ("the feed-forward's activation is ReLU instead of SiLU", lambda a, b: np.maximum(a, 0) * b),
        ("the feed-forward's activation is a sigmoid instead of SiLU", lambda a, b: sigmoid(a) * b),
        ("the feed-forward has no activation", lambda a, b: a * b),
        ("the feed-forward is not multiplied by up", lambda a, b: _silu(a)),
    ):
        yield Change(cause, replace(block, activate=activate))


def _with(block: Block, **fields: Any) -> Block:
    return replace(block, **fields)


def _attention(block: Block, cause: str, **fields: Any) -> Iterator[Change]:
    """The block with other fields in the attention's Config, if it has them and allows the values."""
    try:
        attention = replace(block.attention, **fields)
    except (TypeError, ValueError):
        return
    yield Change(cause, replace(block, attention=attention))


def _silu(a: Array) -> Array:
    found: Array = a * sigmoid(a)
    return found


def _gelu(a: Array) -> Array:
    found: Array = a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    return found


def _eps_outside(x: Array, gain: Array, eps: float) -> Array:
    found: Array = x / (np.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps) * gain
    return found


def _layernorm(x: Array, gain: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    found: Array = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps) * gain
    return found
