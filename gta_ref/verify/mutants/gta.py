"""Wrong implementations of the GTA layer, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

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
    """The latents of all key tokens, decoded for every map: (B, n_q, N_k, width); values where there is no decoder."""
    if not hasattr(self, "w_p"):
        return self.values
    u = np.einsum("bmnl,mlw->bmnw", self.values, self.w_p())
    return u + self.copies(self.values, u.shape[-1] // self.values.shape[-1]) if self.residual() else u


def _silu_before(self: GtaSteps, z: np.ndarray) -> np.ndarray:
    u = _latents_decoded(self)
    return self.join(np.einsum("bmij,bmjw->bmiw", self.map, u / (1 + np.exp(-u))))


def _gate_of_key(self: GtaSteps, values: np.ndarray, gate: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
    if "map" not in s:
        return base.combine(self, s.get("values", gate), gate, s)
    gated = _latents_decoded(self) * self.heads(gate, s["map"].shape[1])
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


def _rectified(self: GtaSteps, a: np.ndarray) -> np.ndarray:
    return np.maximum(a, 0.0) if self.gate_kind() == "relu2" else base.activate(self, a)


def _split_as_columns(self: GtaSteps, flat: np.ndarray, n: int) -> np.ndarray:
    b, length, width = flat.shape
    return flat.reshape(b, length, width // n, n).transpose(0, 3, 1, 2)


def _first_half(self: GtaSteps, x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    return np.concatenate([self.rotate(x[..., :half], self.angles()[..., : half // 2]), x[..., half:]], axis=-1)


def _rounded_angles(self: GtaSteps) -> np.ndarray:
    mantissa, exponent = np.frexp(base.angles(self))
    return np.ldexp(np.round(np.ldexp(mantissa, 8)), exponent - 8)


def _without(name: str) -> Callable[..., np.ndarray]:
    """The gradient of a projection's weights is right, but its contribution to d_x is left out."""
    return lambda self, which, d, g: base.into_projection(self, which, d, g) * (which != name)


def _ungated_output(self: GtaSteps, s: dict[str, np.ndarray], g: dict[str, np.ndarray]) -> np.ndarray:
    d_x = base.finish_backward(self, s, g)
    g["d_w_o"] = np.einsum("bni,bnj->ij", s["values"], self.given["d_out"])
    return d_x


def _ungated_values(self: GtaSteps, s: dict[str, np.ndarray], g: dict[str, np.ndarray]) -> np.ndarray:
    d_x = base.finish_backward(self, s, g)
    g["d_values"] = g["d_heads"]
    return d_x


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
    wrong("layer", "cos sin", "RoPE's exponents −i/d_h instead of −2i/d_h",
        frequencies=lambda self: np.sqrt(base.frequencies(self))),
    wrong("layer", "cos sin", "RoPE's angles rounded to bfloat16",
        angles=_rounded_angles),
    wrong("layer", "q", "RoPE on the first half of each head alone",
        rotate_q=_first_half,
        rotate_k=_first_half),
    wrong("layer", "k", "keys turned as if they were one position later",
        rotate_k=lambda self, k: self.rotate(k, self.angles() + base.frequencies(self))),
    wrong("layer", "q_proj", "features of a projection split into heads column by column (feature·n + head)",
        heads=_split_as_columns),
    wrong("layer", "q_proj", "projections reshaped to (B, heads, N, d) without swapping heads and tokens",
        heads=lambda self, flat, n: flat.reshape(flat.shape[0], n, flat.shape[1], -1)),
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
    wrong("layer", "values", "heads of the decoded values reshaped to (B, N, n_h·d_h) without swapping maps and tokens",
        join=lambda self, u: u.reshape(u.shape[0], u.shape[2], -1)),
    wrong("layer", "values", "decoders of the maps in reverse order",
        w_p=lambda self: self.given["w_p"][::-1]),
    wrong("layer", "values", "every map uses the decoder of map 0",
        w_p=lambda self: np.broadcast_to(self.given["w_p"][:1], self.given["w_p"].shape)),
    wrong("layer", "values", "SiLU on the decoded values before the attention",
        decode_values=_silu_before),
    wrong("layer", "gate", "gate without its activation",
        activate=lambda self, a: a),
    wrong("layer", "gate", "ReLU instead of squared ReLU in the gate",
        activate=_rectified),
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
    wrong("layer", "d_w_o", "gradient of W_O computed from the values before the gate",
        finish_backward=_ungated_output),
    wrong("layer", "d_values d_z", "gradient of the values without the gate",
        finish_backward=_ungated_values),
    wrong("layer", "d_w_g", "derivative of the gate's activation taken at its output",
        slope=lambda self, a: base.slope(self, self.activate(a))),
    wrong("layer", "d_w_g", "derivative of the gate's activation missing",
        d_gate_input=lambda self, d: d),
    wrong("layer", "d_x", "the gate's contribution missing in d_x",
        into_projection=_without("g")),
    wrong("layer", "d_k_proj", "backward of RoPE turns the wrong way",
        rotate_back=lambda self, d: self.rotate(d, self.angles())),
    wrong("layer", "d_k_proj", "backward of RoPE missing",
        rotate_back=lambda self, d: d),
    wrong("layer", "d_b_q", "gradient of a bias averaged over the tokens",
        into_projection=_mean_bias),
    wrong("layer", "d_x", "the queries' contribution missing in d_x",
        into_projection=_without("q")),
    wrong("layer", "d_x", "the keys' contribution missing in d_x",
        into_projection=_without("k")),
    wrong("layer", "d_x", "the latent's contribution missing in d_x",
        into_projection=_without("c")),
]
# fmt: on
