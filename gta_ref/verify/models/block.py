"""One block of a model, and its head, with every step as a named array; any step can be exchanged for a wrong one.

The numbers are those of :mod:`gta_ref.lm.block`, which has no names for its inner arrays. The stages of a block, in the
order of computation, with the attention's own between norm_1 and residual (its docstring lists them):

    input       x
    norm_1      rmsnorm(x; g_1)
    attention.… q_proj, k_proj, …, q and k after RoPE, scores, map, lse, z (the context), heads, out
    residual    h = x + attention.out
    norm_2      u = rmsnorm(h; g_2)
    mlp.gate    u W_gate          mlp.up    u W_up
    mlp.product silu(gate) ⊙ up   mlp.out   product W_down
    output      h + mlp.out
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gta_ref.core import Mask
from gta_ref.lm.block import select
from gta_ref.ops import Array, as_dtype, linear_forward, rmsnorm_forward, softmax_lse_forward, swiglu_forward
from gta_ref.ops.arrays import STORAGE_DTYPES, Params, add, narrow, widen
from gta_ref.ops.gate import sigmoid
from gta_ref.ops.products import Product, products_by, watched
from gta_ref.verify.models.reference import Reference
from gta_ref.verify.plain import blocked, one_by_one, rounded

Stages = dict[str, Array]


class Norm(NamedTuple):
    """An RMSNorm, or what a wrong program has in its place."""

    gain: Array
    eps: float
    compute: Callable[[Array, Array, float], Array]

    def __call__(self, x: Array) -> Array:
        """x (..., H) → the same shape."""
        return self.compute(x, self.gain, self.eps)


@dataclass(frozen=True)
class Block:
    """Everything that one block computes with."""

    mechanism: ModuleType
    attention: Any
    params: Params
    norm_1: Norm
    norm_2: Norm
    positions: Array
    mask: Mask = field(default_factory=Mask)
    merge: Callable[[Array], Array] | None = None  # what a wrong program does to z (B, n, N, d); only without a gate
    activate: Callable[[Array, Array], Array] = lambda a, b: swiglu_forward(a, b)[0]
    residual_1: Callable[[Array, Array, Array], Array] = lambda x, normed, out: add(x, out)
    residual_2: Callable[[Array, Array, Array], Array] = lambda h, normed, out: add(h, out)

    def run(self, x: Array) -> Stages:
        """x (B, N, H) → all stages; without parameters of the feed-forward layer, those up to norm_2."""
        p, stages = self.params, {"input": x}
        normed = stages["norm_1"] = self.norm_1(x)
        trace: Stages = {}
        layer = select(p, "attention.")
        out, _ = self.mechanism.forward(
            layer,
            normed,
            self.attention,
            positions=self.positions,
            mask=self.mask,
            engine="reference",
            trace=trace,
            need_saved=False,
        )
        if self.merge is not None:
            heads = self.merge(trace["z"])
            out = linear_forward(heads, layer["w_o"], layer.get("b_o"))[0]
            trace |= {"heads": heads, "out": out}
        for name, value in trace.items():
            if name == "gate":
                stages["attention.gate_proj"] = linear_forward(normed, layer["w_g"], layer.get("b_g"))[0]
            stages[f"attention.{name}"] = value
            if name == "map":
                _, stages["attention.lse"], _ = softmax_lse_forward(trace["scores"], self.visible(trace["scores"]))
        h = stages["residual"] = self.residual_1(x, normed, out)
        u = stages["norm_2"] = self.norm_2(h)
        if "mlp.w_down" in p:
            gate = stages["mlp.gate"] = linear_forward(u, p["mlp.w_gate"])[0]
            up = stages["mlp.up"] = linear_forward(u, p["mlp.w_up"])[0]
            product = stages["mlp.product"] = self.activate(gate, up)
            out = stages["mlp.out"] = linear_forward(product, p["mlp.w_down"])[0]
            stages["output"] = self.residual_2(h, u, out)
        return stages

    def visible(self, scores: Array) -> Array:
        """Which keys each query sees: bool, broadcast to (B, n_q, N, N)."""
        dense = self.mask.to_dense(*scores.shape[-2:])
        return dense[:, None] if dense.ndim == 3 else dense[None, None]


@dataclass(frozen=True)
class Head:
    """The final norm and the product with the head's matrix (H, vocabulary)."""

    norm: Norm
    matrix: Array

    def run(self, x: Array) -> Stages:
        """x (B, N, H), the last block's output → norm and logits."""
        normed = self.norm(x)
        return {"norm": normed, "logits": linear_forward(normed, self.matrix)[0]}


def by_blas(a: Array, b: Array) -> Array:
    """The matrix product of NumPy."""
    found: Array = a @ b
    return found


@dataclass(frozen=True)
class Way:
    """One way to round: a dtype and an order of summation.

    Attributes
    ----------
    dtype : str
    product : callable
        The matrix product.
    float32_angles : bool
        RoPE's angles are off by as much as if they had been computed in float32, as most programs do.
    eager : bool
        Norm and SwiGLU round every single operation, as eager code in 16 bits.
    """

    dtype: str
    product: Product = by_blas
    float32_angles: bool = False
    eager: bool = False


EXACT = Way("float64")


def plain_ways(dtype: str) -> list[Way]:
    """The right ways to compute in a dtype whose errors make the budget; for float64 those of float32."""
    if dtype in STORAGE_DTYPES:  # beside the rounding of what is stored, the order of float32 sums does not count
        return [Way(dtype), Way(dtype, blocked, float32_angles=True), Way(dtype, rounded(dtype), True, True)]
    return [Way("float32"), Way("float32", one_by_one), Way("float32", blocked, float32_angles=True)]


class Computer:
    """Computes a reference's stages in any way, block by block; holds one block in each dtype at a time."""

    def __init__(self, reference: Reference, ids: Array, positions: Array) -> None:
        self.reference, self.ids, self.positions = reference, ids, positions
        self._cast: dict[tuple[str, str], Params] = {}

    def embedding(self, way: Way) -> Array:
        """The embedding of the ids, (B, N, H)."""
        return self.reference.params["embed"][self.ids].astype(as_dtype(way.dtype))

    def block(self, i: int, way: Way = EXACT) -> Block:
        """Block i with its parameters in the way's dtype."""
        config, p = self.reference.config, self._params(f"block {i}", self.reference.block(i), way)
        norm = _eager_rmsnorm if way.eager else _rmsnorm
        found = Block(
            config.module,
            _with_float32_angles(config.layer(i)) if way.float32_angles else config.layer(i),
            {name: w for name, w in p.items() if not name.startswith("norm_")},
            Norm(p["norm_1"], config.norm_eps, norm),
            Norm(p["norm_2"], config.norm_eps, norm),
            self.positions,
        )
        return replace(found, activate=_eager_swiglu) if way.eager else found

    def head(self, way: Way = EXACT) -> Head:
        """The model's head with its parameters in the way's dtype."""
        config, params = self.reference.config, self.reference.params
        p = self._params("head", {"norm": params["norm"], "head": params["embed" if config.tied else "head"]}, way)
        norm = Norm(p["norm"], config.norm_eps, _eager_rmsnorm if way.eager else _rmsnorm)
        return Head(norm, p["head"].T if config.tied else p["head"])

    def part(self, i: int, way: Way = EXACT) -> Block | Head:
        """Block i, or the head if i is the number of blocks."""
        return self.head(way) if i == self.reference.config.n_layers else self.block(i, way)

    def _params(self, part: str, params: Params, way: Way) -> Params:
        if (part, way.dtype) not in self._cast:
            self._cast = {key: cast for key, cast in self._cast.items() if key[0] == part}
            self._cast[part, way.dtype] = {name: w.astype(as_dtype(way.dtype)) for name, w in params.items()}
        return self._cast[part, way.dtype]


def run(part: Block | Head, x: Array, way: Way = EXACT) -> Stages:
    """The stages of a block or a head for x (B, N, H), in a way's dtype and order of summation."""
    x = x.astype(as_dtype(way.dtype))
    if way.product is by_blas:
        return part.run(x)
    with products_by(way.product), np.errstate(over="ignore", invalid="ignore"):
        return {name: np.asarray(value) for name, value in part.run(watched(x)).items()}


def _with_float32_angles(attention: Any) -> Any:
    """The same attention with angles of RoPE that are off by about one rounding of float32.

    In float32, the angle position · θ^(−2t/d) carries two roundings, together up to 2⁻²³ of itself. Given frequencies
    are moved by that. Without them θ is moved so far that the frequencies t = 1, 2, … change by t · 2⁻²³; frequency 0
    is 1, and its angles are exact.
    """
    if getattr(attention, "rope_pairing", "none") == "none":
        return attention
    frequencies = getattr(attention, "rope_frequencies", None)
    if frequencies is not None:
        return replace(attention, rope_frequencies=[f * (1 + 2.0**-23) for f in frequencies])
    width = attention.rope_dim if hasattr(attention, "rope_dim") else attention.head_dim
    return replace(attention, rope_theta=float(attention.rope_theta * np.exp(2.0**-23 * width / 2)))


def _rmsnorm(x: Array, gain: Array, eps: float) -> Array:
    return rmsnorm_forward(x, gain, eps)[0]


def _eager_rmsnorm(x: Array, gain: Array, eps: float) -> Array:
    return narrow(widen(rmsnorm_forward(x, np.ones_like(gain), eps)[0]) * widen(gain), x.dtype)


def _eager_swiglu(a: Array, b: Array) -> Array:
    wide = widen(a)
    return narrow(widen(narrow(wide * sigmoid(wide), a.dtype)) * widen(b), a.dtype)
