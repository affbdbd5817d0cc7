"""Wrong implementations of MHA, GQA, GVA and GHA, besides the mistakes that every layer can have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.headwise import HeadwiseSteps
from gta_ref.verify.stepwise.layer import LayerSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward

base = HeadwiseSteps  # its steps are called as base.step(self, ...)


def _no_bias(self: HeadwiseSteps, name: str) -> np.ndarray:
    return base.project(self, name) - (self.given.get("b_v", 0.0) if name == "v" else 0.0)


def _strided_blocks(self: HeadwiseSteps, flat: np.ndarray, blocks: int) -> np.ndarray:
    """Give block b every s-th value head from b on."""
    b, n, _ = flat.shape
    d_h = self.settings["config"]["head_dim"]
    return base.values_of(self, flat.reshape(b, n, -1, blocks, d_h).swapaxes(2, 3).reshape(b, n, -1), blocks)


def _roped_values(self: HeadwiseSteps, flat: np.ndarray, blocks: int) -> np.ndarray:
    n_v = flat.shape[-1] // self.settings["config"]["head_dim"]
    return base.values_of(self, self.flat(self.rotate(self.heads(flat, n_v), self.angles())), blocks)


def _normed_values(self: HeadwiseSteps, flat: np.ndarray, blocks: int) -> np.ndarray:
    if not self.qk_norm():
        return base.values_of(self, flat, blocks)
    n_v = flat.shape[-1] // self.settings["config"]["head_dim"]
    return base.values_of(self, self.flat(self.norm(self.heads(flat, n_v), "norm_k")), blocks)


def _first_of_block(self: HeadwiseSteps, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Every head of a map uses the first value head of its block."""
    d_h = self.settings["config"]["head_dim"]
    return np.tile((p @ v)[..., :d_h], v.shape[-1] // d_h)


def _over_all_heads(self: HeadwiseSteps, x: np.ndarray, name: str) -> np.ndarray:
    mean = np.mean(x**2, axis=(1, 3), keepdims=True)
    return self.given[name] * x / np.sqrt(mean + self.norm_eps())


def _other_gain(self: HeadwiseSteps, x: np.ndarray, name: str) -> np.ndarray:
    return base.norm(self, x, {"norm_q": "norm_k", "norm_k": "norm_q"}[name])


def _turned_then_normed(name: str) -> Callable[..., np.ndarray]:
    def rotate(self: HeadwiseSteps, x: np.ndarray) -> np.ndarray:
        turned = self.rotate(x, self.angles())
        return base.norm(self, turned, name) if self.qk_norm() else turned

    return rotate


def _norm_without_mean(self: HeadwiseSteps, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    d_x, g[f"d_{name}"] = normed_backward(d, x, self.given[name], self.norm_eps(), mean_term=0.0)
    return d_x


def _gain_of_one_head(self: HeadwiseSteps, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    d_x = base.norm_backward(self, d, x, name, g)
    g[f"d_{name}"] = normed_backward(d[:, :1], x[:, :1], self.given[name], self.norm_eps())[1]
    return d_x


def _frequencies_of_base(self: LayerSteps) -> np.ndarray:
    d = self.rope_width()
    return self.theta() ** (-np.arange(0, d, 2) / d)


def _scaled_twice(self: HeadwiseSteps, d_k: int, d_v: int) -> float:
    return float(self.settings["config"].get("score_scale", 1.0) * d_k**-0.5)


def _gate_on_output(self: HeadwiseSteps, s: Arrays) -> Arrays:
    found = base.finish(self, s)
    if "gate" not in found or found["gate"].shape != found["out"].shape:
        return found
    return {"gate": found["gate"], "heads": s["values"], "out": self.output(s["values"]) * found["gate"]}


def _late_values(self: HeadwiseSteps, cache: Arrays, new: Arrays, start: int) -> None:
    base.write(self, cache, {"k": new["k"]}, start)
    room = cache["v"].shape[2] - start - 1
    base.write(self, cache, {"v": new["v"][:, :, :room]}, start + 1)


def _padded_values(self: HeadwiseSteps, cache: Arrays) -> Arrays:
    return base.cached(self, {**cache, "v": np.pad(cache["v"], ((0, 0), (0, 0), (0, 0), (0, 8)))})


def _a_key_for_every_map(self: HeadwiseSteps, s: Arrays) -> Arrays:
    entries = base.entries(self, s)
    return {**entries, "k": np.repeat(entries["k"], s["q"].shape[1] // entries["k"].shape[1], axis=1)}


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- forward

    wrong("headwise", "v cache_v", "bias of the values missing",
        project=_no_bias),
    wrong("headwise", "v cache_v", "RoPE applied to the values",
        values_of=_roped_values),
    wrong("headwise", "v cache_v", "value heads of a block strided (b, b + s, …) instead of side by side",
        values_of=_strided_blocks),
    wrong("headwise", "z out", "every head of a map uses the first value head of its block",
        context=_first_of_block),
    wrong("headwise", "heads out", "heads merged feature by feature instead of head by head",
        join=lambda self, z: z.transpose(0, 2, 3, 1).reshape(z.shape[0], z.shape[2], -1)),
    wrong("headwise", "heads", "gate on the output instead of the heads",
        finish=_gate_on_output),
    wrong("headwise", "out", "bias of W_O missing",
        output=lambda self, heads: heads @ self.given["w_o"]),

    # --- norm of queries and keys

    wrong("headwise", "q_normed", "RMSNorm of queries and keys missing",
        norm=lambda self, x, name: x),
    wrong("headwise", "q_normed", "RMSNorm of queries and keys after RoPE instead of before it",
        norm=lambda self, x, name: x, rotate_q=_turned_then_normed("norm_q"), rotate_k=_turned_then_normed("norm_k")),
    wrong("headwise", "q_normed", "gain of the RMSNorm of queries and keys missing",
        norm=lambda self, x, name: normed(x, np.ones(x.shape[-1]), self.norm_eps())),
    wrong("headwise", "q_normed", "gains of the RMSNorms of queries and keys exchanged",
        norm=_other_gain),
    wrong("headwise", "q_normed", "RMSNorm of queries and keys over all heads together instead of each",
        norm=_over_all_heads),
    wrong("headwise", "q_normed", "ε of the RMSNorm of queries and keys 1e-5 instead of norm_eps",
        norm_eps=lambda self: 1e-5),
    wrong("headwise", "v", "RMSNorm of the keys applied to the values too",
        values_of=_normed_values),

    # --- options that GTA does not have, and MLA has too

    wrong("layer", "cos sin", "RoPE's own frequencies ignored: those of its base taken for all features",
        frequencies=_frequencies_of_base),
    wrong("layer", "cos sin", "magnitude of RoPE ignored",
        magnitude=lambda self: 1.0),
    wrong("headwise", "scores", "factor on the scores multiplied with 1/√d_k instead of taken in its place",
        scale=_scaled_twice),

    # --- backward

    wrong("headwise", "d_k_proj", "mean term missing in the backward of the RMSNorm of queries and keys",
        norm_backward=_norm_without_mean),
    wrong("headwise", "d_norm_q", "gradient of the gains of queries and keys from the first head only",
        norm_backward=_gain_of_one_head),
    wrong("headwise", "d_b_o", "gradient of W_O's bias averaged over the tokens",
        d_output_bias=lambda self, d_out: d_out.mean((0, 1))),
    wrong("headwise", "d_x", "the values' contribution missing in d_x",
        into_projection=lambda self, name, d, g: base.into_projection(self, name, d, g) * (name != "v")),

    # --- decoding

    wrong("headwise-decode", "cache_v", "values written one slot late into the cache, keys rightly",
        write=_late_values),
    wrong("headwise-decode", "cache_k", "a key for every map in the cache instead of one for each key head",
        entries=_a_key_for_every_map),
    wrong("headwise-decode", "cache_v", "values padded to a wider head in the cache",
        cached=_padded_values),
    wrong("headwise-decode", "cache_k", "all tokens of a step at the position of its first",
        step_positions=lambda self, whole, start, stop: whole["positions"][:, [start] * (stop - start)]),
]
# fmt: on
