"""The steps of MHA, GQA, GVA and GHA layers, which cache values head by head and have no decoder."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.layer import LayerSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward


class HeadwiseSteps(LayerSteps):
    """A layer without a decoder in steps: the r value heads that one map serves are one wide head of the core."""

    def head_counts(self) -> tuple[int, int, int]:
        """n_q maps, n_k key heads, and s blocks of r = n_h/n_q value heads."""
        c, mechanism = self.settings["config"], self.settings["mechanism"]
        n_h = c["n_heads"]
        n_q = c["n_q"] if mechanism in ("gva", "gha") else n_h
        n_k = c["n_k"] if mechanism in ("gqa", "gha") else n_q
        n_v = {"mha": n_h, "gqa": n_k, "gva": n_h}.get(mechanism) or c["n_v"]
        return n_q, n_k, n_v * n_q // n_h

    def tokens(self) -> Arrays:
        """q_proj, k_proj, with qk_norm q_normed and k_normed, v, q, k."""
        n_q, n_k, blocks = self.head_counts()
        q, k = self.heads(self.project("q"), n_q), self.heads(self.project("k"), n_k)
        s = {"q_proj": q, "k_proj": k, "v": self.values_of(self.project("v"), blocks)}
        if self.qk_norm():
            q, k = self.norm(q, "norm_q"), self.norm(k, "norm_k")
            s |= {"q_normed": q, "k_normed": k}
        return {**s, "q": self.rotate_q(q), "k": self.rotate_k(k)}

    def kept(self, s: Arrays) -> Arrays:
        """Keys after RoPE, and values."""
        return {"k": s["k"], "v": s["v"]}

    def entries(self, s: Arrays) -> Arrays:
        """What decoding writes into the cache."""
        return {"k": self.cached_key(s["k_normed" if self.qk_norm() else "k_proj"]), "v": s["v"]}

    def mix(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """Scores, map, z, values."""
        attended = self.attend(s["q"], held["k"], held["v"], bounds)
        stages = {name: attended[name] for name in ("scores", "map", "z")}
        return {**stages, "values": self.join(stages["z"])}

    def values_of(self, flat: np.ndarray, blocks: int) -> np.ndarray:
        """The blocks of value heads: (B, N, n_v·d_h) → (B, s, N, r·d_h)."""
        return self.heads(flat, blocks)

    def join(self, z: np.ndarray) -> np.ndarray:
        """The output heads side by side: those of map 0, then those of map 1, and so on."""
        return self.flat(z)

    def qk_norm(self) -> bool:
        """Whether every head of Q and of K passes through an RMSNorm before RoPE."""
        return self.settings["config"].get("qk_norm", False)

    def norm_eps(self) -> float:
        """ε of the RMSNorms."""
        return self.settings["config"].get("norm_eps", 1e-6)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """RMSNorm of every head; name is that of its gain."""
        return normed(x, self.given[name], self.norm_eps())

    def norm_backward(self, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
        """Store the gain's gradient in `g` and return that of x."""
        d_x, g[f"d_{name}"] = normed_backward(d, x, self.given[name], self.norm_eps())
        return d_x

    def layer_backward(self, s: Arrays) -> Arrays:
        """All gradients: of the stages of a forward pass, of x and of the parameters."""
        n_q, n_k, blocks = self.head_counts()
        g: Arrays = {}
        d_x = self.finish_backward(s, g)
        g["d_z"] = self.heads(g["d_values"], n_q)
        g |= self.attend_backward(g["d_z"], None, s["q"], s["map"], n_k, blocks)
        for name in ("q", "k"):
            d = self.rotate_back(g[f"d_{name}"])
            if self.qk_norm():
                g[f"d_{name}_normed"] = d
                d = self.norm_backward(d, s[f"{name}_proj"], f"norm_{name}", g)
            g[f"d_{name}_proj"] = d
        for name, d in (("q", g["d_q_proj"]), ("k", g["d_k_proj"]), ("v", g["d_v"])):
            d_x = d_x + self.into_projection(name, self.flat(d), g)
        return {**g, "d_x": d_x}
