"""Wrong implementations of the GTA layer, forward and backward."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.gta import GtaSteps

base = GtaSteps  # its steps are called as base.step(self, ...)


def _without_bias(self: GtaSteps, name: str, which: str) -> np.ndarray:
    flat = base.project(self, name)
    return flat - self.given.get(f"b_{name}", 0.0) if name == which else flat


def _roped(self: GtaSteps, c: np.ndarray) -> np.ndarray:
    d = c.shape[-1]
    angle = self.positions()[..., None] * self.theta() ** (-np.arange(0, d, 2) / d)
    return self.rotate(c, angle)


def _reread(w: np.ndarray) -> np.ndarray:
    """Read the stored weight as (width, n_q·d_l) and transpose it: (n_q, d_l, width)."""
    n_q, d_l, width = w.shape
    return w.reshape(width, n_q * d_l).T.reshape(n_q, d_l, width)


def _interleave_heads(self: GtaSteps, u: np.ndarray) -> np.ndarray:
    """Give output head i the values of map i % n_q."""
    d_h = self.settings["config"]["head_dim"]
    b, n_q, n, width = u.shape
    return u.reshape(b, n_q, n, width // d_h, d_h).transpose(0, 2, 3, 1, 4).reshape(b, n, n_q * width)


def _latents_decoded(self: GtaSteps) -> np.ndarray:
    """The latents of all key tokens, decoded for every map: (B, n_q, N_k, width)."""
    u = np.einsum("bmnl,mlw->bmnw", self.values, self.w_p())
    return u + self.copies(self.values, u.shape[-1] // self.values.shape[-1]) if self.residual() else u


def _silu_before(self: GtaSteps, z: np.ndarray) -> np.ndarray:
    u = _latents_decoded(self)
    return self.join(np.einsum("bmij,bmjw->bmiw", self.map, u / (1 + np.exp(-u))))


def _gate_of_key(self: GtaSteps, values: np.ndarray, gate: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
    if "map" not in s:
        return base.combine(self, s.get("values", gate), gate, s)
    n_q = self.settings["config"]["n_q"]
    gated = _latents_decoded(self) * self.heads(gate, n_q)
    return self.flat(np.einsum("bmij,bmjw->bmiw", s["map"], gated))


def _transposed_output(self: GtaSteps, heads: np.ndarray) -> np.ndarray:
    w = self.given["w_o"]
    return heads @ (w.T if w.shape[0] == w.shape[1] else w.reshape(w.shape[::-1]).T)


def _mean_bias(self: GtaSteps, name: str, d: np.ndarray, g: dict[str, np.ndarray]) -> np.ndarray:
    d_x = base.into_projection(self, name, d, g)
    if f"d_b_{name}" in g:
        g[f"d_b_{name}"] = d.mean((0, 1))
    return d_x


def _other_gate(self: GtaSteps) -> str:
    kind = base.gate_kind(self)
    return {"sigmoid": "silu", "silu": "sigmoid"}.get(kind, kind)


def _summed_over_maps(self: GtaSteps, z: np.ndarray, d_u: np.ndarray) -> np.ndarray:
    return np.broadcast_to(base.d_w_p(self, z, d_u).sum(0, keepdims=True), self.given["w_p"].shape)


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
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
]
# fmt: on
