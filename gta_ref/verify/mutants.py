"""Mutants: wrong implementations, each with one step replaced, that the kit must catch and can recognise.

A mutant names the first array that it makes wrong. The self-test requires that the core suite catches every mutant and
blames that array. The diagnosis of an implementation looks for the mutant that computes the same wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.verify.stepwise import Stepwise


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation.

    Attributes
    ----------
    name : str
    cause : str
        What is wrong, in the words of the report.
    stage : tuple of str
        The array that goes wrong first, or several if it depends on the case.
    kind : {"attention", "layer", "decode"}
        The kind of cases in which the error shows.
    implementation : type of Stepwise
    """

    name: str
    cause: str
    stage: tuple[str, ...]
    kind: str
    implementation: type[Stepwise]


def wrong(kind: str, stage: str, cause: str, **steps: Callable[..., Any]) -> Mutant:
    """A mutant in which `steps` replace those of Stepwise; its name is made from the cause."""
    name = "-".join("".join(ch if ch.isalnum() else " " for ch in cause.lower()).split()[:8])
    return Mutant(name, cause, tuple(stage.split()), kind, type(f"Wrong_{name}", (Stepwise,), dict(steps)))


base = Stepwise  # its functions are called as base.step(self, ...)


def _visible_with(**change: Any) -> Callable[..., np.ndarray]:
    def visible(self: Stepwise, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
        bounds = {"q_start": q_start, "k_start": k_start, "k_stop": k_stop}
        for name, f in change.items():
            bounds[name] = f(bounds[name], n_k)
        return base.visible(self, bounds["q_start"], bounds["k_start"], bounds["k_stop"], n_q, n_k)

    return visible


def _tiled(self: Stepwise, n_q: int, n: int) -> np.ndarray:
    return np.arange(n_q) % n


def _over_queries(self: Stepwise, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    top = np.where(seen, s, -np.inf).max(-2, keepdims=True, initial=-np.inf)
    weights = np.where(seen, np.exp(s - np.where(np.isfinite(top), top, 0.0)), 0.0)
    total = weights.sum(-2, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _uniform(self: Stepwise, s: np.ndarray, seen: np.ndarray) -> np.ndarray:
    blind = ~seen.any(-1, keepdims=True)
    return np.where(blind, 1 / max(s.shape[-1], 1), base.softmax(self, s, seen))


def _whole_tiles(self: Stepwise, q_start: Any, k_start: Any, k_stop: Any, n_q: int, n_k: int) -> np.ndarray:
    seen = base.visible(self, q_start, k_start, k_stop, n_q, n_k)
    return seen & (np.arange(n_k) < max(n_k // 16 * 16, min(n_k, 16)))


def _stale(self: Stepwise, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Online softmax over tiles of 8 keys that does not rescale its sums when a larger score arrives."""
    tiles = [slice(i, i + 8) for i in range(0, p.shape[-1], 8)]
    top = np.zeros((*p.shape[:-1], 1))
    total, z = np.zeros_like(top), np.zeros((*p.shape[:-1], v.shape[-1]))
    for tile in tiles:
        new = np.maximum(top, p[..., tile].max(-1, keepdims=True, initial=0.0))
        weight = np.divide(p[..., tile], new, out=np.zeros_like(p[..., tile]), where=new > 0)
        total, z, top = total + weight.sum(-1, keepdims=True), z + base.context(self, weight, v[:, :, tile]), new
    return np.divide(z, total, out=np.zeros_like(z), where=total > 0)


def _transposed(self: Stepwise, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    if p.shape[-1] != p.shape[-2]:
        return np.einsum("bmij,bmjd->bmid", p, v)
    return np.einsum("bmji,bmjd->bmid", p, v)


def _transposed_square(self: Stepwise, p: np.ndarray, d_z: np.ndarray) -> np.ndarray:
    return base.d_v(self, p.swapaxes(-1, -2) if p.shape[-1] == p.shape[-2] else p, d_z)


def _first(self: Stepwise, d: np.ndarray, n: int) -> np.ndarray:
    return d[:, :: d.shape[1] // n]


def _without_bias(self: Stepwise, name: str, which: str) -> np.ndarray:
    flat = base.project(self, name)
    return flat - self.given.get(f"b_{name}", 0.0) if name == which else flat


def _roped(self: Stepwise, c: np.ndarray) -> np.ndarray:
    d = c.shape[-1]
    angle = self.positions()[..., None] * self.theta() ** (-np.arange(0, d, 2) / d)
    return self.rotate(c, angle)


def _reread(w: np.ndarray) -> np.ndarray:
    """Read the stored weight as (width, n_q·d_l) and transpose it: (n_q, d_l, width)."""
    n_q, d_l, width = w.shape
    return w.reshape(width, n_q * d_l).T.reshape(n_q, d_l, width)


def _interleave_heads(self: Stepwise, u: np.ndarray) -> np.ndarray:
    """Give output head i the values of map i % n_q."""
    d_h = self.settings["config"]["head_dim"]
    b, n_q, n, width = u.shape
    return u.reshape(b, n_q, n, width // d_h, d_h).transpose(0, 2, 3, 1, 4).reshape(b, n, n_q * width)


def _latents_decoded(self: Stepwise) -> np.ndarray:
    """The latents of all key tokens, decoded for every map: (B, n_q, N_k, width)."""
    u = np.einsum("bmnl,mlw->bmnw", self.values, self.w_p())
    return u + self.copies(self.values, u.shape[-1] // self.values.shape[-1]) if self.residual() else u


def _silu_before(self: Stepwise, z: np.ndarray) -> np.ndarray:
    u = _latents_decoded(self)
    return self.join(np.einsum("bmij,bmjw->bmiw", self.map, u / (1 + np.exp(-u))))


def _gate_of_key(self: Stepwise, values: np.ndarray, gate: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
    if "map" not in s:
        return base.combine(self, s.get("values", gate), gate, s)
    n_q = self.settings["config"]["n_q"]
    gated = _latents_decoded(self) * self.heads(gate, n_q)
    return self.flat(np.einsum("bmij,bmjw->bmiw", s["map"], gated))


def _transposed_output(self: Stepwise, heads: np.ndarray) -> np.ndarray:
    w = self.given["w_o"]
    return heads @ (w.T if w.shape[0] == w.shape[1] else w.reshape(w.shape[::-1]).T)


def _mean_bias(self: Stepwise, name: str, d: np.ndarray, g: dict[str, np.ndarray]) -> np.ndarray:
    d_x = base.into_projection(self, name, d, g)
    if f"d_b_{name}" in g:
        g[f"d_b_{name}"] = d.mean((0, 1))
    return d_x


def _write_late(self: Stepwise, ck: np.ndarray, cc: np.ndarray, k: np.ndarray, c: np.ndarray, start: int) -> None:
    room = min(k.shape[2], ck.shape[2] - start - 1)
    base.write(self, ck, cc, k[:, :, :room], c[:, :, :room], start + 1)


def _averaged_queries(self: Stepwise, q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    return base.scores(self, np.broadcast_to(q.mean(1, keepdims=True), q.shape), k, scale)


def _other_gate(self: Stepwise) -> str:
    kind = base.gate_kind(self)
    return {"sigmoid": "silu", "silu": "sigmoid"}.get(kind, kind)


def _summed_over_maps(self: Stepwise, z: np.ndarray, d_u: np.ndarray) -> np.ndarray:
    return np.broadcast_to(base.d_w_p(self, z, d_u).sum(0, keepdims=True), self.given["w_p"].shape)


def _padded_keys(self: Stepwise, ck: np.ndarray, cc: np.ndarray) -> dict[str, np.ndarray]:
    wider = max(1, cc.shape[3] - ck.shape[3])
    return {"cache_k": np.pad(ck, ((0, 0), (0, 0), (0, 0), (0, wider))), "cache_c": cc}


def _turned_as_a_key(self: Stepwise, c: np.ndarray) -> np.ndarray:
    half = c.shape[-1] // 2
    return self.rotate(c, np.repeat(self.angles(), half, axis=-1)[..., :half])


def _no_padding(self: Stepwise, whole: dict[str, np.ndarray], stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(whole["k_start"]), np.full_like(whole["k_start"], stop)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- forward of the attention core

    wrong("attention", "scores", "scores not scaled by 1/√d_k",
        scale=lambda self, d_k, d_v: 1.0),
    wrong("attention", "scores", "scores scaled by 1/d_k instead of 1/√d_k",
        scale=lambda self, d_k, d_v: 1 / d_k),
    wrong("attention", "scores", "scores scaled by 1/√d_v (GTA: 1/√d_l) instead of 1/√d_k",
        scale=lambda self, d_k, d_v: d_v**-0.5),
    wrong("attention", "scores", "scores multiplied by log₂e, but with exp instead of exp2",
        scores=lambda self, q, k, scale: base.scores(self, q, k, scale) * np.log2(np.e)),
    wrong("attention", "scores", "key heads tiled (m % n_k) instead of repeated (m // (n_q/n_k))",
        key_of_map=_tiled),
    wrong("attention", "scores", "every map uses key head 0",
        key_of_map=lambda self, n_q, n: np.zeros(n_q, int)),
    wrong("attention", "scores", "query heads averaged over the maps of a key head",
        scores=_averaged_queries),
    wrong("attention", "map", "softmax over the wrong axis (queries)",
        softmax=_over_queries),
    wrong("attention", "map", "softmax weights not divided by their sum",
        softmax=lambda self, s, seen: self.weights(s, seen)),
    wrong("attention", "map", "masked scores set to 0 instead of −∞",
        softmax=lambda self, s, seen: base.softmax(self, np.where(seen, s, 0.0), np.ones_like(seen))),
    wrong("attention", "map", "mask one place too narrow: a query does not see itself",
        visible=_visible_with(q_start=lambda x, n: x - 1)),
    wrong("attention", "map", "mask one place too wide: a query sees the next key",
        visible=_visible_with(q_start=lambda x, n: x + 1)),
    wrong("attention", "map", "causal mask aligned to the start instead of the end",
        visible=_visible_with(q_start=lambda x, n: np.zeros_like(x))),
    wrong("attention", "map", "causal mask missing",
        causal=lambda self: False),
    wrong("attention", "map", "causal mask where there should be none",
        causal=lambda self: True),
    wrong("attention", "map", "left padding (k_start) ignored in the mask",
        visible=_visible_with(k_start=lambda x, n: np.zeros_like(x))),
    wrong("attention", "map", "ragged lengths (k_stop) ignored in the mask",
        visible=_visible_with(k_stop=lambda x, n: np.full_like(x, n))),
    wrong("attention", "map", "k_stop taken as the last key instead of one past it",
        visible=_visible_with(k_stop=lambda x, n: np.minimum(x + 1, n))),
    wrong("attention", "map", "a row that sees nothing averages all values",
        softmax=_uniform),
    wrong("attention", "map", "a row that sees nothing is NaN (0/0)",
        softmax=lambda self, s, seen: self.weights(s, seen) / self.weights(s, seen).sum(-1, keepdims=True)),
    wrong("attention", "map", "keys after the last whole tile of 16 dropped",
        visible=_whole_tiles),
    # An implementation that reads unused slots shows it in one of two ways: its result has NaN if the slots hold NaN,
    # else its scores of these slots are not 0. Each way is a separate mutant, so that neither cause is named for the
    # other.
    wrong("attention", "scores", "NaN of unused slots reaches the result",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), x, base.clean(self, x, k_start, k_stop))),
    wrong("attention", "scores", "content of unused slots in scores and d_map, where they count as 0",
        clean=lambda self, x, k_start, k_stop: np.where(np.isnan(x), 0.0, x)),
    wrong("attention", "z", "value heads tiled (m % n_v) instead of repeated",
        value_of_map=_tiled),
    wrong("attention", "z", "every map uses value head 0",
        value_of_map=lambda self, n_q, n: np.zeros(n_q, int)),
    wrong("attention", "z", "partial sums not rescaled when the running maximum grows",
        context=_stale),
    wrong("attention", "z", "values weighted with the transposed map",
        context=_transposed),
    wrong("attention", "lse", "lse in log₂ instead of natural logarithms",
        lse=lambda self, s, seen: base.lse(self, s, seen) / np.log(2)),
    wrong("attention", "lse", "subtracted maximum not added back to lse",
        lse=lambda self, s, seen: np.log(self.weights(s, seen).sum(-1))),

    # --- backward of the attention core

    wrong("attention", "d_map", "gradient of the map computed with the wrong value head",
        d_map=lambda self, d_z, v: base.d_map(self, d_z, v[:, ::-1])),
    wrong("attention", "d_scores", "row-sum term missing in the softmax's backward",
        row_sum=lambda self, p, d_p: 0.0),
    wrong("attention", "d_scores", "row-sum term without the weights: Σ dA instead of Σ A dA",
        row_sum=lambda self, p, d_p: d_p.sum(-1, keepdims=True)),
    wrong("attention", "d_scores", "row-sum term added instead of subtracted",
        row_sum=lambda self, p, d_p: -base.row_sum(self, p, d_p)),
    wrong("attention", "d_scores", "gradient through lse left out",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None)),
    wrong("attention", "d_scores", "gradient through lse with the wrong sign",
        d_scores=lambda self, p, d_p, d_lse: base.d_scores(self, p, d_p, None if d_lse is None else -d_lse)),
    wrong("attention", "d_q", "scale missing in d_q",
        d_q=lambda self, d_s: base.d_q(self, d_s) / self.factor),
    wrong("attention", "d_k", "scale missing in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) / self.factor),
    wrong("attention", "d_k", "scale applied twice in d_k",
        d_k=lambda self, d_s, q: base.d_k(self, d_s, q) * self.factor),
    wrong("attention", "d_k", "d_k of the first map only, not summed over the maps of a key head",
        gather_k=_first),
    wrong("attention", "d_v", "d_v of the first map only, not summed over the maps of a value head",
        gather_v=_first),
    wrong("attention", "d_v", "d_v averaged over the maps of a value head",
        gather_v=lambda self, d, n: base.gather_v(self, d, n) * n / d.shape[1]),
    wrong("attention", "d_v", "d_v with the transposed map",
        d_v=_transposed_square),

    # --- forward of the GTA layer

    wrong("layer", "q_proj", "bias of the queries missing",
        project=lambda self, name: _without_bias(self, name, "q")),
    wrong("layer", "k_proj", "bias of the keys missing",
        project=lambda self, name: _without_bias(self, name, "k")),
    wrong("layer", "c", "bias of the latent missing",
        project=lambda self, name: _without_bias(self, name, "c")),
    wrong("layer", "gate", "bias of the gate missing",
        project=lambda self, name: _without_bias(self, name, "g")),
    wrong("layer", "c", "RoPE applied to the latent C",
        latent=_roped),
    wrong("layer", "cos sin", "RoPE with another base (500000 instead of 10000)",
        theta=lambda self: 500000.0),
    wrong("layer", "q", "RoPE pairs interleaved instead of half-split, or the reverse",
        pairing=lambda self: {"half": "interleaved", "interleaved": "half", "none": "none"}[base.pairing(self)]),
    wrong("layer", "q", "RoPE turned the wrong way",
        rotate_q=lambda self, q: self.rotate(q, -self.angles()),
        rotate_k=lambda self, k: self.rotate(k, -self.angles())),
    wrong("layer", "q", "RoPE missing on the queries",
        rotate_q=lambda self, q: q),
    wrong("layer", "k", "RoPE missing on the keys",
        rotate_k=lambda self, k: k),
    wrong("layer", "values", "decoder weight transposed instead of reshaped",
        w_p=lambda self: _reread(self.given["w_p"])),
    wrong("layer", "values", "decoder residual missing",
        residual=lambda self: False),
    wrong("layer", "values", "decoder residual where there should be none",
        residual=lambda self: True),
    wrong("layer", "values", "decoder residual repeats each feature instead of the whole vector",
        copies=lambda self, z, e: np.repeat(z, e, axis=-1)),
    wrong("layer", "values", "output head i uses map i % n_q instead of i // (n_h/n_q)",
        join=_interleave_heads),
    wrong("layer", "values", "every map uses the decoder of map 0",
        w_p=lambda self: np.broadcast_to(self.given["w_p"][:1], self.given["w_p"].shape)),
    wrong("layer", "values", "SiLU on the decoded values before the attention",
        decode_values=_silu_before),
    wrong("layer", "gate", "gate without its activation",
        activate=lambda self, a: a),
    wrong("layer", "gate", "gate with SiLU instead of sigmoid, or the reverse",
        gate_kind=_other_gate),
    wrong("layer", "gate", "gate from the token before",
        activate=lambda self, a: base.activate(self, np.roll(a, 1, axis=1))),
    wrong("layer", "heads", "gate from the key's token instead of the query's",
        combine=_gate_of_key),
    wrong("layer", "heads", "gate not applied",
        combine=lambda self, v, g, s: v),
    wrong("layer", "heads", "gate added instead of multiplied",
        combine=lambda self, v, g, s: v + g),
    wrong("layer", "out", "output projection transposed",
        output=_transposed_output),

    # --- backward of the GTA layer

    wrong("layer", "d_z", "residual missing in the decoder's backward",
        d_latent_context=lambda self, d_u: np.einsum("bmnw,mlw->bmnl", d_u, self.given["w_p"])),
    wrong("layer", "d_w_p", "gradient of the decoders averaged over the tokens",
        d_w_p=lambda self, z, d_u: base.d_w_p(self, z, d_u) / z.shape[2]),
    wrong("layer", "d_w_p", "gradient of the decoders summed over the maps",
        d_w_p=_summed_over_maps),
    wrong("layer", "d_w_g", "derivative of the gate's activation missing",
        d_gate_input=lambda self, d: d),
    wrong("layer", "d_x", "the gate's contribution missing in d_x",
        into_gate=lambda self, d, g: 0.0 * base.into_gate(self, d, g)),
    wrong("layer", "d_k_proj", "backward of RoPE turns the wrong way",
        rotate_back=lambda self, d: self.rotate(d, self.angles())),
    wrong("layer", "d_b_q", "gradient of a bias averaged over the tokens",
        into_projection=_mean_bias),
    wrong("layer", "d_x", "the latent's contribution missing in d_x",
        into_projection=lambda self, name, d, g: base.into_projection(self, name, d, g) * (name != "c")),

    # --- decoding

    wrong("decode", "cache_k", "cache written one slot late",
        write=_write_late),
    wrong("decode", "cache_k", "keys padded to the latent's width in the cache",
        held=_padded_keys),
    wrong("decode", "cache_k", "keys cached before RoPE",
        cached_key=lambda self, k: k),
    wrong("decode", "cache_k", "positions start at 0 in every step",
        step_positions=lambda self, whole, start, stop: whole["positions"][:, : stop - start]),
    wrong("decode", "cache_k", "RoPE applied twice to cached keys",
        cached_key=lambda self, k: self.rotate_k(self.rotate_k(k))),
    wrong("decode", "cache_c", "RoPE applied to the cached latent",
        latent=_turned_as_a_key),
    wrong("decode", "out", "left padding ignored in decoding",
        step_bounds=_no_padding),
    wrong("decode", "out", "a new token does not see itself",
        step_bounds=lambda self, whole, stop: (whole["k_start"], np.full_like(whole["k_start"], max(stop - 1, 0)))),
    wrong("decode", "out", "queries of a chunk see the whole chunk",
        causal=lambda self: not self.settings.get("chunks")),
]
# fmt: on
