"""Wrong implementations of MLA, forward, backward and decoding, besides the mistakes that every layer can have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.mla import MlaSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward

base = MlaSteps  # its steps are called as base.step(self, ...)


def _scale_by(*widths: str) -> Callable[..., float]:
    def scale(self: MlaSteps, d_k: int, d_v: int) -> float:
        return float(sum(self.settings["config"][name] for name in widths) ** -0.5)

    return scale


def _no_bias(which: str) -> Callable[..., np.ndarray]:
    def linear(self: MlaSteps, name: str, y: np.ndarray) -> np.ndarray:
        return y @ self.given[f"w_{name}"] if name == which else base.linear(self, name, y)

    return linear


def _without(*names: str) -> Callable[..., np.ndarray]:
    """The contribution of these projections to the gradient of their input left out."""

    def into(self: MlaSteps, name: str, y: np.ndarray, d: np.ndarray, g: Arrays) -> np.ndarray:
        return base.into(self, name, y, d, g) * (name not in names)

    return into


def _turned(self: MlaSteps, x: np.ndarray) -> np.ndarray:
    """RoPE over all features of x, as if its whole width had positions; keys from the cache stay as they are."""
    if self.pairing() == "none" or x.shape[2] != self.positions().shape[1]:
        return x
    d = x.shape[-1] // 2 * 2
    angle = self.positions()[..., None] * self.theta() ** (-np.arange(0, d, 2) / d)
    return self.rotate(x, angle)


def _joined(self: MlaSteps) -> tuple[int, int, int, np.ndarray]:
    """n_h, d_nope, d_v, and [W_UK,i W_UV,i] of all heads side by side, (d_c, n_h·(d_nope + d_v))."""
    w_uk, w_uv = base.up(self)
    both = np.concatenate([w_uk, w_uv], axis=2)
    return both.shape[0], w_uk.shape[2], w_uv.shape[2], self.side_by_side(both)


def _split_in_blocks(self: MlaSteps) -> tuple[np.ndarray, np.ndarray]:
    """Take the first n_h·d_nope columns of a weight that is stored head by head as W_UK, and the rest as W_UV."""
    n_h, d_nope, d_v, w = _joined(self)
    keys, values = w[:, : n_h * d_nope], w[:, n_h * d_nope :]
    return (
        keys.reshape(-1, n_h, d_nope).transpose(1, 0, 2),
        values.reshape(-1, n_h, d_v).transpose(1, 0, 2),
    )


def _split_by_head(self: MlaSteps) -> tuple[np.ndarray, np.ndarray]:
    """Take head i's columns of a weight that is stored as [W_UK W_UV] as if it were stored head by head."""
    n_h, d_nope, _, _ = _joined(self)
    w = np.concatenate([self.given["w_uk"], self.given["w_uv"]], axis=1)
    heads = w.reshape(w.shape[0], n_h, -1).transpose(1, 0, 2)
    return heads[..., :d_nope], heads[..., d_nope:]


def _rope_first(self: MlaSteps, nope: np.ndarray, rope: np.ndarray | None) -> np.ndarray:
    """The shared key's part before the other, although the query has it after the other."""
    found = base.beside(self, nope, rope)
    return found if rope is None or rope.shape[1] == nope.shape[1] else np.roll(found, rope.shape[3], axis=-1)


def _reread(w: np.ndarray) -> np.ndarray:
    """Every head's matrix read with rows and columns exchanged."""
    return w.reshape(w.shape[0], w.shape[2], w.shape[1]).transpose(0, 2, 1)


def _norm_without_mean(self: MlaSteps, d: np.ndarray, c: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    if name not in self.given:
        return d
    d_c, g[f"d_{name}"] = normed_backward(d, c, self.given[name], self.norm_eps(), mean_term=0.0)
    return d_c


def _gain_after(self: MlaSteps, d: np.ndarray, c: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    d_c = base.norm_backward(self, d, c, name, g)
    if name in self.given:
        g[f"d_{name}"] = g[f"d_{name}"] * self.given[name]
    return d_c


def _copied_key(self: MlaSteps, cache: Arrays) -> Arrays:
    n_h = self.settings["config"]["n_heads"]
    return base.cached(self, {name: np.repeat(x, n_h if name == "k_rope" else 1, axis=1) for name, x in cache.items()})


def _normed_again(self: MlaSteps, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
    if self.settings.get("chunks"):
        held = {**held, "c": self.norm_c(held["c"])}
    return base.mix(self, s, held, bounds)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- from the tokens to queries, latent and shared key

    wrong("mla", "c_q_proj cache_c out", "bias of the down-projection to the queries' latent missing",
        linear=_no_bias("dq")),
    wrong("mla", "c_proj cache_c", "bias of the down-projection to the latent missing",
        linear=_no_bias("dkv")),
    wrong("mla", "k_rope_proj cache_k_rope", "bias of the shared key missing",
        linear=_no_bias("kr")),
    wrong("mla", "q_nope", "bias of the queries without position missing",
        linear=_no_bias("q")),
    wrong("mla", "q_rope_proj", "bias of the queries with RoPE missing",
        linear=_no_bias("qr")),
    wrong("mla", "c_q out", "RMSNorm of the queries' latent missing",
        norm_q=lambda self, c: c),
    wrong("mla", "c cache_c", "RMSNorm of the latent missing",
        norm_c=lambda self, c: c),
    wrong("mla", "c_q c cache_c", "both latents' RMSNorms missing",
        norm=lambda self, c, name: c),
    wrong("mla", "c_q c cache_c", "gains of the latents' RMSNorms missing",
        norm=lambda self, c, name: normed(c, np.ones(c.shape[-1]), self.norm_eps()) if name in self.given else c),
    wrong("mla", "c_q c cache_c", "RMSNorm of the latents where there should be none",
        norm=lambda self, c, name: normed(c, self.given.get(name, np.ones(c.shape[-1])), self.norm_eps())),
    wrong("mla", "c_q c cache_c", "ε of the latents' RMSNorms 1e-5 instead of norm_eps",
        norm_eps=lambda self: 1e-5),
    wrong("mla", "q_nope out", "RoPE on the part without position too",
        q_nope=_turned, k_nope=_turned),
    wrong("mla", "c cache_c", "RoPE applied to the latent of keys and values",
        norm_c=lambda self, c: _turned(self, base.norm_c(self, c))),

    # --- the attention

    wrong("mla", "k_nope q_latent out", "joined weight of keys and values split into two blocks, though stored by head",
        up=_split_in_blocks),
    wrong("mla", "k_nope q_latent out", "joined weight of keys and values split by head, though stored as two blocks",
        up=_split_by_head),
    wrong("mla", "scores out", "scores scaled by 1/√d_nope instead of 1/√(d_nope + d_rope)",
        scale=_scale_by("nope_dim")),
    wrong("mla", "scores out", "scores scaled by 1/√(d_c + d_rope) instead of 1/√(d_nope + d_rope)",
        scale=_scale_by("latent_dim", "rope_dim")),
    wrong("mla", "k out", "parts of the key in the other order than those of the query",
        beside=_rope_first),
    wrong("mla", "q_latent out", "W_UK transposed where it is absorbed into the query",
        absorb_q=lambda self, q, w: base.absorb_q(self, q, _reread(w))),
    wrong("mla", "values out", "W_UV transposed where it is absorbed into the result",
        absorb_v=lambda self, z, w: base.absorb_v(self, z, _reread(w))),
    wrong("mla", "values out", "W_UV of head 0 absorbed for every head",
        absorb_v=lambda self, z, w: base.absorb_v(self, z, np.broadcast_to(w[:1], w.shape))),

    # --- backward

    wrong("mla", "d_k_rope", "gradient of the shared key from the first head only, not summed over the heads",
        d_shared_key=lambda self, d: d[:, :1]),
    wrong("mla", "d_k_rope", "gradient of the shared key averaged over the heads",
        d_shared_key=lambda self, d: d.mean(1, keepdims=True)),
    wrong("mla", "d_c", "the values' contribution missing in the gradient of the latent",
        through_values=lambda self, d, w: 0.0, latent_as_key_and_value=lambda self, d_k, d_v: d_k),
    wrong("mla", "d_c", "the keys' contribution missing in the gradient of the latent",
        through_keys=lambda self, d, w: 0.0, latent_as_key_and_value=lambda self, d_k, d_v: d_v),
    wrong("mla", "d_c_proj", "mean term missing in the backward of the latents' RMSNorms",
        norm_backward=_norm_without_mean),
    wrong("mla", "d_norm_q d_norm_c", "gradient of the latents' gains from the latents after their gains",
        norm_backward=_gain_after),
    wrong("mla", "d_c_q d_x", "contribution of the queries with RoPE missing in the gradient of the queries' input",
        into=_without("qr")),
    wrong("mla", "d_x", "the shared key's contribution missing in d_x",
        into=_without("kr")),
    wrong("mla", "d_x", "the queries' latent's contribution missing in d_x",
        into=_without("dq")),
    wrong("mla", "d_b_dq d_b_q", "gradients of the biases averaged over the tokens",
        d_bias=lambda self, d: d.mean((0, 1))),
    wrong("mla", "d_w_uk", "heads of d_w_uk and d_w_uv not moved beside each other",
        side_by_side=lambda self, w: w.reshape(w.shape[1], -1)),

    # --- decoding

    wrong("mla-decode", "cache_c", "latent cached before its RMSNorm",
        cached_latent=lambda self, s: s["c_proj"]),
    wrong("mla-decode", "cache_k_rope", "shared key copied for every head in the cache",
        cached=_copied_key),
    wrong("mla-decode", "out", "RMSNorm applied again to the latents from the cache",
        mix=_normed_again),
]
# fmt: on
