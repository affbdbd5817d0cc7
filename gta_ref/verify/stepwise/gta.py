"""The steps of the GTA layer, forward and backward."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.layer import LayerSteps


class GtaSteps(LayerSteps):
    """The GTA layer in steps, on top of those that all layers share."""

    gate_default = "sigmoid"

    def tokens(self) -> Arrays:
        """q_proj, k_proj, c, q, k."""
        c = self.settings["config"]
        q, k = self.heads(self.project("q"), c["n_q"]), self.heads(self.project("k"), c["n_k"])
        latent = self.latent(self.heads(self.project("c"), c["n_c"]))
        return {"q_proj": q, "k_proj": k, "c": latent, "q": self.rotate_q(q), "k": self.rotate_k(k)}

    def kept(self, s: Arrays) -> Arrays:
        """Keys after RoPE, and the latent."""
        return {"k": s["k"], "c": s["c"]}

    def entries(self, s: Arrays) -> Arrays:
        """What decoding writes into the cache."""
        return {"k": self.cached_key(s["k_proj"]), "c": s["c"]}

    def mix(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """Scores, map, z, values."""
        attended = self.attend(s["q"], held["k"], held["c"], bounds)
        stages = {name: attended[name] for name in ("scores", "map", "z")}
        return {**stages, "values": self.decode_values(stages["z"])}

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

    def layer_backward(self, s: Arrays) -> Arrays:
        """All gradients: of the stages of a forward pass, of x and of the parameters."""
        c = self.settings["config"]
        g: Arrays = {}
        d_x = self.finish_backward(s, g)
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

    def d_latent_context(self, d_u: np.ndarray) -> np.ndarray:
        """d_z, the gradient of the latent context, through the decoder."""
        d_z = np.einsum("bmnw,mlw->bmnl", d_u, self.given["w_p"])
        if self.residual():
            d_z = d_z + d_u.reshape(*d_u.shape[:3], -1, d_z.shape[-1]).sum(3)
        return d_z

    def d_w_p(self, z: np.ndarray, d_u: np.ndarray) -> np.ndarray:
        """Gradient of the decoder weights."""
        return np.einsum("bmnl,bmnw->mlw", z, d_u)
