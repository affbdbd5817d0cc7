"""The steps of the GTA layer: forward, backward, and decoding with a cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps


class GtaSteps(AttentionSteps):
    """The GTA layer in steps, on top of those of the attention core."""

    a: np.ndarray  # the gate before its activation

    def case(self) -> Arrays:
        """All arrays of the case."""
        return self.decode_case() if self.settings.get("chunks") else self.layer_case()

    def project(self, name: str) -> np.ndarray:
        """x W + b, flat (B, N, width); name is q, k, c or g."""
        return self.given["x"] @ self.given[f"w_{name}"] + self.given.get(f"b_{name}", 0.0)

    def heads(self, flat: np.ndarray, n: int) -> np.ndarray:
        """Split the heads: (B, N, n·d) → (B, n, N, d)."""
        return flat.reshape(*flat.shape[:2], n, -1).transpose(0, 2, 1, 3)

    def flat(self, heads: np.ndarray) -> np.ndarray:
        """Merge the heads: (B, n, N, d) → (B, N, n·d)."""
        return heads.transpose(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1)

    def positions(self) -> np.ndarray:
        """Positions of the tokens, (B, N)."""
        return self.given["positions"]

    def theta(self) -> float:
        """RoPE's base."""
        return self.settings["config"].get("rope_theta", 10000.0)

    def angles(self) -> np.ndarray:
        """Angles of RoPE, (B, N, d_h/2)."""
        d = self.settings["config"]["head_dim"]
        return self.positions()[..., None] * self.theta() ** (-np.arange(0, d, 2) / d)

    def pairing(self) -> str:
        """The pairing of features in RoPE: half, interleaved or none."""
        return self.settings["config"].get("rope_pairing", "half")

    def rotate(self, x: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Rotate every pair of features of x (B, n, N, d) by its angle (B, N, d/2)."""
        pairing, half = self.pairing(), x.shape[-1] // 2
        if pairing == "none":
            return x
        first = np.arange(half) if pairing == "half" else 2 * np.arange(half)
        second = first + (half if pairing == "half" else 1)
        turned = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle)[:, None]
        y = np.empty_like(x)
        y[..., first], y[..., second] = turned.real, turned.imag
        return y

    def rotate_q(self, q: np.ndarray) -> np.ndarray:
        """Queries after RoPE."""
        return self.rotate(q, self.angles())

    def rotate_k(self, k: np.ndarray) -> np.ndarray:
        """Keys after RoPE."""
        return self.rotate(k, self.angles())

    def latent(self, c: np.ndarray) -> np.ndarray:
        """Latent values, unchanged from their projection."""
        return c

    def w_p(self) -> np.ndarray:
        """The decoder weights (n_q, d_l, width), one matrix per map."""
        return self.given["w_p"]

    def residual(self) -> bool:
        """Whether copies of the latent context are added to the decoded values."""
        return self.settings["config"].get("decoder_residual", False)

    def copies(self, z: np.ndarray, e: int) -> np.ndarray:
        """e copies of z, side by side along the last axis."""
        return np.concatenate([z] * e, axis=-1)

    def decode_values(self, z: np.ndarray) -> np.ndarray:
        """Decode the latent context: (B, n_q, N, d_l) → (B, N, n_h·d_h)."""
        u = np.einsum("bmnl,mlw->bmnw", z, self.w_p())
        if self.residual():
            u = u + self.copies(z, u.shape[-1] // z.shape[-1])
        return self.join(u)

    def join(self, u: np.ndarray) -> np.ndarray:
        """The decoded values of all maps, side by side."""
        return self.flat(u)

    def gate_kind(self) -> str:
        """The gate's activation."""
        return self.settings["config"].get("gate", "sigmoid")

    def activate(self, a: np.ndarray) -> np.ndarray:
        """The gate: the activation of its projection."""
        s = 1 / (1 + np.exp(-a))
        return {"sigmoid": s, "silu": a * s, "relu2": np.maximum(a, 0) ** 2}[self.gate_kind()]

    def slope(self, a: np.ndarray) -> np.ndarray:
        """Derivative of the gate's activation."""
        s = 1 / (1 + np.exp(-a))
        return {"sigmoid": s * (1 - s), "silu": s + a * s * (1 - s), "relu2": 2 * np.maximum(a, 0)}[self.gate_kind()]

    def combine(self, values: np.ndarray, gate: np.ndarray, stages: Arrays) -> np.ndarray:
        """The heads: decoded values times gate."""
        return values * gate

    def output(self, heads: np.ndarray) -> np.ndarray:
        """The output: heads times W_O."""
        return heads @ self.given["w_o"]

    def bounds(self) -> tuple[np.ndarray, ...]:
        """q_start, k_start, k_stop of a layer over whole sequences."""
        k_start = self.given["k_start"]
        return np.zeros_like(k_start), k_start, self.given["k_stop"]

    def layer_forward(self) -> Arrays:
        """All stages of a forward pass."""
        c = self.settings["config"]
        s: Arrays = {}
        if self.pairing() != "none":
            s["cos"], s["sin"] = np.cos(self.angles()), np.sin(self.angles())
        s["q_proj"], s["k_proj"] = self.heads(self.project("q"), c["n_q"]), self.heads(self.project("k"), c["n_k"])
        s["c"] = self.latent(self.heads(self.project("c"), c["n_c"]))
        s["q"], s["k"] = self.rotate_q(s["q_proj"]), self.rotate_k(s["k_proj"])
        attended = self.attend(s["q"], s["k"], s["c"], self.bounds())
        s |= {name: attended[name] for name in ("scores", "map", "z")}
        s["values"] = s["heads"] = self.decode_values(s["z"])
        if self.gate_kind() != "none":
            self.a = self.project("g")
            s["gate"] = self.activate(self.a)
            s["heads"] = self.combine(s["values"], s["gate"], s)
        s["out"] = self.output(s["heads"])
        return s

    def layer_case(self) -> Arrays:
        """All arrays of a layer case."""
        s = self.layer_forward()
        return {**s, **self.layer_backward(s)}

    def layer_backward(self, s: Arrays) -> Arrays:
        """All gradients: of the stages of a forward pass, of x and of the parameters."""
        c, a = self.settings["config"], self.given
        g: Arrays = {}
        d_x = np.zeros_like(a["x"])
        g["d_heads"] = a["d_out"] @ a["w_o"].T
        g["d_w_o"] = np.einsum("bni,bnj->ij", s["heads"], a["d_out"])
        g["d_values"] = g["d_heads"]
        if self.gate_kind() != "none":
            g["d_gate"], g["d_values"] = g["d_heads"] * s["values"], g["d_heads"] * s["gate"]
            d_x = d_x + self.into_gate(self.d_gate_input(g["d_gate"]), g)
        d_u = self.heads(g["d_values"], c["n_q"])  # (B, n_q, N, width)
        g["d_z"] = self.d_latent_context(d_u)
        g["d_w_p"] = self.d_w_p(s["z"], d_u)
        back = self.attend_backward(g["d_z"], None, s["q"], s["map"], c["n_k"], c["n_c"])
        back["d_c"] = back.pop("d_v")
        g |= back
        g["d_q_proj"], g["d_k_proj"] = self.rotate_back(g["d_q"]), self.rotate_back(g["d_k"])
        for name, d in (("q", g["d_q_proj"]), ("k", g["d_k_proj"]), ("c", g["d_c"])):
            d_x = d_x + self.into_projection(name, self.flat(d), g)
        return {**g, "d_x": d_x}

    def d_gate_input(self, d_gate: np.ndarray) -> np.ndarray:
        """The gradient of the gate's projection, through its activation."""
        return d_gate * self.slope(self.a)

    def into_gate(self, d: np.ndarray, g: Arrays) -> np.ndarray:
        """The gate's contribution to d_x."""
        return self.into_projection("g", d, g)

    def into_projection(self, name: str, d: np.ndarray, g: Arrays) -> np.ndarray:
        """Store d_w and d_b of a projection in `g` and return its contribution to d_x."""
        g[f"d_w_{name}"] = np.einsum("bni,bnj->ij", self.given["x"], d)
        if f"b_{name}" in self.given:
            g[f"d_b_{name}"] = d.sum((0, 1))
        return d @ self.given[f"w_{name}"].T

    def d_latent_context(self, d_u: np.ndarray) -> np.ndarray:
        """d_z, the gradient of the latent context, through the decoder."""
        d_z = np.einsum("bmnw,mlw->bmnl", d_u, self.given["w_p"])
        if self.residual():
            d_z = d_z + d_u.reshape(*d_u.shape[:3], -1, d_z.shape[-1]).sum(3)
        return d_z

    def d_w_p(self, z: np.ndarray, d_u: np.ndarray) -> np.ndarray:
        """Gradient of the decoder weights."""
        return np.einsum("bmnl,bmnw->mlw", z, d_u)

    def rotate_back(self, d: np.ndarray) -> np.ndarray:
        """The gradient through RoPE, which is a rotation by the opposite angle."""
        return self.rotate(d, -self.angles())

    # --- decoding -------------------------------------------------------------------------------------------

    def decode_case(self) -> Arrays:
        """A layer that decodes in chunks with a cache: the content of the cache at the end, and all outputs."""
        whole, a = self.given, self.given
        c, length = self.settings["config"], a["x"].shape[1]
        stages: Arrays = {}
        if self.pairing() != "none":
            stages["cos"], stages["sin"] = np.cos(self.angles()), np.sin(self.angles())
        cache_k = np.zeros((a["x"].shape[0], c["n_k"], length, c["head_dim"]))
        cache_c = np.zeros((a["x"].shape[0], c["n_c"], length, c["latent_dim"]))
        outs, start = [], 0
        for n in self.settings["chunks"]:
            stop = start + n
            self.given = {**whole, "x": whole["x"][:, start:stop], "positions": self.step_positions(whole, start, stop)}
            q = self.rotate_q(self.heads(self.project("q"), c["n_q"]))
            k, latent = self.heads(self.project("k"), c["n_k"]), self.latent(self.heads(self.project("c"), c["n_c"]))
            self.write(cache_k, cache_c, self.cached_key(k), latent, start)
            q_start = np.full_like(whole["k_start"], start)
            k_start, k_stop = self.step_bounds(whole, stop)
            z = self.attend(
                q, self.read_keys(cache_k[:, :, :stop], k), cache_c[:, :, :stop], (q_start, k_start, k_stop)
            )
            values = self.decode_values(z["z"])
            if self.gate_kind() != "none":
                self.a = self.project("g")
                values = self.combine(values, self.activate(self.a), {})
            outs.append(self.output(values))
            start = stop
        self.given = whole
        return {**stages, **self.held(cache_k, cache_c), "out": np.concatenate(outs, axis=1)}

    def step_positions(self, whole: Mapping[str, np.ndarray], start: int, stop: int) -> np.ndarray:
        """Positions of the new tokens."""
        return whole["positions"][:, start:stop]

    def step_bounds(self, whole: Mapping[str, np.ndarray], stop: int) -> tuple[np.ndarray, np.ndarray]:
        """k_start and k_stop of a decoding step."""
        return whole["k_start"], np.full_like(whole["k_start"], stop)

    def cached_key(self, k: np.ndarray) -> np.ndarray:
        """New keys in the form in which the cache holds them."""
        return self.rotate_k(k)

    def write(self, cache_k: np.ndarray, cache_c: np.ndarray, k: np.ndarray, c: np.ndarray, start: int) -> None:
        """Write the new tokens into the cache, starting at slot `start`."""
        cache_k[:, :, start : start + k.shape[2]] = k
        cache_c[:, :, start : start + c.shape[2]] = c

    def read_keys(self, held: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The keys to attend to; here, those that the cache holds."""
        return held

    def held(self, cache_k: np.ndarray, cache_c: np.ndarray) -> Arrays:
        """The cache's content by name."""
        return {"cache_k": cache_k, "cache_c": cache_c}
