"""The steps that all attention layers share: projections, RoPE, gate, output, and decoding with a cache.

A mechanism adds ``tokens``, everything that is computed from the tokens of x; ``kept`` and ``entries``, which of it a
cache keeps; ``mix``, from there through the attention core to the values of all heads; and ``layer_backward``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps


class LayerSteps(AttentionSteps):
    """What the layers of all mechanisms have in common, on top of the steps of the attention core."""

    gate_default = "none"
    a: np.ndarray  # the gate before its activation

    def case(self) -> Arrays:
        """All arrays of the case."""
        return self.decode_case() if self.settings.get("chunks") else self.layer_case()

    def layer_case(self) -> Arrays:
        """All arrays of a layer case."""
        s = self.layer_forward()
        return {**s, **self.layer_backward(s)}

    def layer_forward(self) -> Arrays:
        """All stages of a forward pass."""
        s = {**self.tables(), **self.tokens()}
        s |= self.mix(s, self.kept(s), self.bounds())
        return {**s, **self.finish(s)}

    # --- what a mechanism adds

    def tokens(self) -> Arrays:
        """The stages before the attention core, each computed from the tokens of x alone."""
        raise NotImplementedError

    def kept(self, s: Arrays) -> Arrays:
        """Those of these stages that later queries need: what a cache keeps."""
        raise NotImplementedError

    def entries(self, s: Arrays) -> Arrays:
        """What decoding writes into the cache; as :meth:`kept`, but its keys come from :meth:`cached_key`."""
        raise NotImplementedError

    def mix(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """The stages from the attention core to values (B, N, width of W_O); `held` holds what was kept of all keys."""
        raise NotImplementedError

    def layer_backward(self, s: Arrays) -> Arrays:
        """All gradients: of the stages of a forward pass, of x and of the parameters."""
        raise NotImplementedError

    # --- projections and heads

    def project(self, name: str) -> np.ndarray:
        """x W + b, flat (B, N, width); name is q, k, c, v or g."""
        return self.given["x"] @ self.given[f"w_{name}"] + self.given.get(f"b_{name}", 0.0)

    def into_projection(self, name: str, d: np.ndarray, g: Arrays) -> np.ndarray:
        """Store d_w and d_b of a projection in `g` and return its contribution to d_x."""
        g[f"d_w_{name}"] = np.einsum("bni,bnj->ij", self.given["x"], d)
        if f"b_{name}" in self.given:
            g[f"d_b_{name}"] = d.sum((0, 1))
        return d @ self.given[f"w_{name}"].T

    def heads(self, flat: np.ndarray, n: int) -> np.ndarray:
        """Split the heads: (B, N, n·d) → (B, n, N, d)."""
        return flat.reshape(*flat.shape[:2], n, -1).transpose(0, 2, 1, 3)

    def flat(self, heads: np.ndarray) -> np.ndarray:
        """Merge the heads: (B, n, N, d) → (B, N, n·d)."""
        return heads.transpose(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1)

    def scale(self, d_k: int, d_v: int) -> float:
        """The factor by which scores are scaled."""
        return self.settings["config"].get("score_scale") or super().scale(d_k, d_v)

    def bounds(self) -> tuple[np.ndarray, ...]:
        """q_start, k_start, k_stop of a layer over whole sequences."""
        k_start = self.given["k_start"]
        return np.zeros_like(k_start), k_start, self.given["k_stop"]

    # --- RoPE

    def positions(self) -> np.ndarray:
        """Positions of the tokens, (B, N)."""
        return self.given["positions"]

    def theta(self) -> float:
        """RoPE's base."""
        return self.settings["config"].get("rope_theta", 10000.0)

    def rope_width(self) -> int:
        """Width of what RoPE turns."""
        return self.settings["config"]["head_dim"]

    def frequencies(self) -> np.ndarray:
        """Angle per position of every pair of features."""
        own, d = self.settings["config"].get("rope_frequencies"), self.rope_width()
        return self.theta() ** (-np.arange(0, d, 2) / d) if own is None else np.array(own)

    def angles(self) -> np.ndarray:
        """Angles of RoPE, (B, N, pairs)."""
        return self.positions()[..., None] * self.frequencies()

    def magnitude(self) -> float:
        """Factor on all features that RoPE turns."""
        return self.settings["config"].get("rope_magnitude", 1.0)

    def pairing(self) -> str:
        """The pairing of features in RoPE: half, interleaved or none."""
        return self.settings["config"].get("rope_pairing", "half")

    def tables(self) -> Arrays:
        """The stages cos and sin; none without RoPE."""
        if self.pairing() == "none" or not self.rope_width():
            return {}
        return {"cos": np.cos(self.angles()) * self.magnitude(), "sin": np.sin(self.angles()) * self.magnitude()}

    def rotate(self, x: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Rotate every pair of features of x (B, n, N, d) by its angle (B, N, pairs); features without one stay."""
        pairing, pairs = self.pairing(), angle.shape[-1]
        if pairing == "none":
            return x
        first = np.arange(pairs) if pairing == "half" else 2 * np.arange(pairs)
        second = first + (pairs if pairing == "half" else 1)
        turned = (x[..., first] + 1j * x[..., second]) * (self.magnitude() * np.exp(1j * angle))[:, None]
        y = x.copy()
        y[..., first], y[..., second] = turned.real, turned.imag
        return y

    def rotate_q(self, q: np.ndarray) -> np.ndarray:
        """Queries after RoPE."""
        return self.rotate(q, self.angles())

    def rotate_k(self, k: np.ndarray) -> np.ndarray:
        """Keys after RoPE."""
        return self.rotate(k, self.angles())

    def rotate_back(self, d: np.ndarray) -> np.ndarray:
        """The gradient through RoPE, which is a rotation by the opposite angle."""
        return self.rotate(d, -self.angles())

    # --- gate and output

    def gate_kind(self) -> str:
        """The gate's activation."""
        return self.settings["config"].get("gate", self.gate_default)

    def activate(self, a: np.ndarray) -> np.ndarray:
        """The gate: the activation of its projection."""
        s = 1 / (1 + np.exp(-a))
        return {"sigmoid": s, "silu": a * s, "relu2": np.maximum(a, 0) ** 2}[self.gate_kind()]

    def slope(self, a: np.ndarray) -> np.ndarray:
        """Derivative of the gate's activation."""
        s = 1 / (1 + np.exp(-a))
        return {"sigmoid": s * (1 - s), "silu": s + a * s * (1 - s), "relu2": 2 * np.maximum(a, 0)}[self.gate_kind()]

    def combine(self, values: np.ndarray, gate: np.ndarray, stages: Arrays) -> np.ndarray:
        """The heads: values times gate."""
        return values * gate

    def output(self, heads: np.ndarray) -> np.ndarray:
        """The output: heads times W_O, plus a bias where there is one."""
        return heads @ self.given["w_o"] + self.given.get("b_o", 0.0)

    def finish(self, s: Arrays) -> Arrays:
        """The stages after the values: gate, heads, out."""
        if self.gate_kind() == "none":
            return {"heads": s["values"], "out": self.output(s["values"])}
        self.a = self.project("g")
        gate = self.activate(self.a)
        heads = self.combine(s["values"], gate, s)
        return {"gate": gate, "heads": heads, "out": self.output(heads)}

    def finish_backward(self, s: Arrays, g: Arrays) -> np.ndarray:
        """Store d_heads, d_gate, d_values, d_w_o and d_b_o in `g` and return the gate's contribution to d_x."""
        a = self.given
        g["d_heads"] = g["d_values"] = a["d_out"] @ a["w_o"].T
        g["d_w_o"] = np.einsum("bni,bnj->ij", s["heads"], a["d_out"])
        if "b_o" in a:
            g["d_b_o"] = self.d_output_bias(a["d_out"])
        if self.gate_kind() == "none":
            return np.zeros_like(a["x"])
        g["d_gate"], g["d_values"] = g["d_heads"] * s["values"], g["d_heads"] * s["gate"]
        return self.into_gate(self.d_gate_input(g["d_gate"]), g)

    def d_output_bias(self, d_out: np.ndarray) -> np.ndarray:
        """Gradient of the output's bias."""
        return d_out.sum((0, 1))

    def d_gate_input(self, d_gate: np.ndarray) -> np.ndarray:
        """The gradient of the gate's projection, through its activation."""
        return d_gate * self.slope(self.a)

    def into_gate(self, d: np.ndarray, g: Arrays) -> np.ndarray:
        """The gate's contribution to d_x."""
        return self.into_projection("g", d, g)

    # --- decoding

    def decode_case(self) -> Arrays:
        """A layer that decodes in chunks with a cache: the content of the cache at the end, and all outputs."""
        whole, outs, start = self.given, [], 0
        cache: Arrays = {}
        stages = self.tables()
        for n in self.settings["chunks"]:
            outs.append(self.decode_step(whole, whole["x"][:, start : start + n], cache, start))
            start += n
        return {**stages, **self.cached(cache), "out": np.concatenate(outs, axis=1)}

    def decode_step(self, whole: Mapping[str, np.ndarray], x: np.ndarray, cache: Arrays, start: int) -> np.ndarray:
        """Append the tokens x at slot `start` of the cache and return their outputs.

        An empty `cache` gets its arrays in the first step. `whole` holds the inputs of the whole case.
        """
        stop, capacity = start + x.shape[1], whole["positions"].shape[1]
        self.given = {**whole, "x": x, "positions": self.step_positions(whole, start, stop)}
        s = self.tokens()
        new = self.entries(s)
        if not cache:
            cache |= {name: np.zeros((*e.shape[:2], capacity, e.shape[3])) for name, e in new.items()}
        self.write(cache, new, start)
        held = self.read(cache, stop)
        k_start, k_stop = self.step_bounds(whole, stop)
        mixed = self.mix(s, held, (np.full_like(k_start, start), k_start, k_stop))
        return self.finish({"values": mixed["values"]})["out"]

    def step_positions(self, whole: Mapping[str, np.ndarray], start: int, stop: int) -> np.ndarray:
        """Positions of the new tokens."""
        return whole["positions"][:, start:stop]

    def step_bounds(self, whole: Mapping[str, np.ndarray], stop: int) -> tuple[np.ndarray, np.ndarray]:
        """k_start and k_stop of a decoding step."""
        return whole["k_start"], np.full_like(whole["k_start"], stop)

    def cached_key(self, k: np.ndarray) -> np.ndarray:
        """New keys in the form in which the cache holds them."""
        return self.rotate_k(k)

    def write(self, cache: Arrays, new: Arrays, start: int) -> None:
        """Write the new tokens into the cache, starting at slot `start`."""
        for name, x in new.items():
            cache[name][:, :, start : start + x.shape[2]] = x

    def read(self, cache: Arrays, stop: int) -> Arrays:
        """The slots of the cache that the queries of a step attend to: those before `stop`."""
        return {name: x[:, :, :stop] for name, x in cache.items()}

    def cached(self, cache: Arrays) -> Arrays:
        """The cache's content by name."""
        return {f"cache_{name}": x for name, x in cache.items()}
