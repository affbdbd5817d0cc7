"""The steps of the MLA layer in both of its ways, with decompressed keys and values and with absorbed weights."""

from __future__ import annotations

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.layer import LayerSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward


class MlaSteps(LayerSteps):
    """The MLA layer in steps, on top of those that all layers share."""

    def rope_width(self) -> int:
        """Width of what RoPE turns; 0 if no part of the layer depends on positions."""
        return self.settings["config"]["rope_dim"]

    def scale(self, d_k: int, d_v: int) -> float:
        """The factor by which scores are scaled, the same with absorbed weights."""
        c = self.settings["config"]
        return c.get("score_scale") or (c["nope_dim"] + c["rope_dim"]) ** -0.5

    def compressed(self) -> bool:
        """Whether queries are made from a latent."""
        return self.settings["config"].get("query_latent_dim") is not None

    # --- from the tokens to queries, latent and shared key

    def linear(self, name: str, y: np.ndarray) -> np.ndarray:
        """y W + b, flat; name is q, dq, uq, qr, dkv or kr."""
        return y @ self.given[f"w_{name}"] + self.given.get(f"b_{name}", 0.0)

    def norm_eps(self) -> float:
        """ε of the latents' RMSNorms."""
        return self.settings["config"].get("norm_eps", 1e-6)

    def norm_q(self, c: np.ndarray) -> np.ndarray:
        """The queries' latent after its norm."""
        return self.norm(c, "norm_q")

    def norm_c(self, c: np.ndarray) -> np.ndarray:
        """The latent of keys and values after its norm."""
        return self.norm(c, "norm_c")

    def norm(self, c: np.ndarray, name: str) -> np.ndarray:
        """RMSNorm of a latent, if latents have one."""
        return normed(c, self.given[name], self.norm_eps()) if name in self.given else c

    def tokens(self) -> Arrays:
        """The stages from c_q_proj to k_rope."""
        x, n_h = self.given["x"], self.settings["config"]["n_heads"]
        s: Arrays = {}
        query = x
        if self.compressed():
            s["c_q_proj"] = self.linear("dq", x)
            query = s["c_q"] = self.norm_q(s["c_q_proj"])
        s["q_nope"] = self.q_nope(self.heads(self.linear("uq" if self.compressed() else "q", query), n_h))
        s["c_proj"] = self.heads(self.linear("dkv", x), 1)
        s["c"] = self.norm_c(s["c_proj"])
        if self.rope_width():
            s["q_rope_proj"] = self.heads(self.linear("qr", query), n_h)
            s["k_rope_proj"] = self.heads(self.linear("kr", x), 1)
            s["q_rope"], s["k_rope"] = self.rotate_q(s["q_rope_proj"]), self.rotate_k(s["k_rope_proj"])
        return s

    def q_nope(self, q: np.ndarray) -> np.ndarray:
        """The part of the queries that has no position."""
        return q

    def kept(self, s: Arrays) -> Arrays:
        """The latent after its norm and the shared key after RoPE."""
        return {name: s[name] for name in ("c", "k_rope") if name in s}

    def entries(self, s: Arrays) -> Arrays:
        """What decoding writes into the cache."""
        entries = {"c": self.cached_latent(s)}
        return {**entries, "k_rope": self.cached_key(s["k_rope_proj"])} if "k_rope" in s else entries

    def cached_latent(self, s: Arrays) -> np.ndarray:
        """New latents in the form in which the cache holds them."""
        return s["c"]

    # --- the two ways through the attention core

    def up(self) -> tuple[np.ndarray, np.ndarray]:
        """W_UK (n_h, d_c, d_nope) and W_UV (n_h, d_c, d_v), one matrix per head."""
        n_h = self.settings["config"]["n_heads"]
        w_uk, w_uv = (self.given[name].reshape(-1, n_h, self.given[name].shape[1] // n_h) for name in ("w_uk", "w_uv"))
        return w_uk.transpose(1, 0, 2), w_uv.transpose(1, 0, 2)

    def beside(self, nope: np.ndarray, rope: np.ndarray | None) -> np.ndarray:
        """The parts without and with RoPE side by side; a shared part with RoPE is copied for every head."""
        if rope is None:
            return nope
        return np.concatenate([nope, np.broadcast_to(rope, (*nope.shape[:3], rope.shape[3]))], axis=-1)

    def absorbs(self) -> bool:
        """Whether W_UK and W_UV are absorbed: in decoding, unless the case says otherwise."""
        return self.settings.get("absorb", bool(self.settings.get("chunks")))

    def mix(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """The stages from the attention core's inputs to values."""
        return (self.absorbed if self.absorbs() else self.decompressed)(s, held, bounds)

    def decompressed(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """Keys and values of every head are computed from the latents: k_nope, v, q, k, scores, map, z, values."""
        w_uk, w_uv = self.up()
        k_nope = self.k_nope(np.einsum("blc,hcd->bhld", held["c"][:, 0], w_uk))
        v = np.einsum("blc,hcd->bhld", held["c"][:, 0], w_uv)
        q, k = self.beside(s["q_nope"], s.get("q_rope")), self.beside(k_nope, held.get("k_rope"))
        attended = self.attend(q, k, v, bounds)
        stages = {name: attended[name] for name in ("scores", "map", "z")}
        return {"k_nope": k_nope, "v": v, "q": q, "k": k, **stages, "values": self.flat(attended["z"])}

    def k_nope(self, k: np.ndarray) -> np.ndarray:
        """The part of the keys that has no position."""
        return k

    def absorbed(self, s: Arrays, held: Arrays, bounds: tuple[np.ndarray, ...]) -> Arrays:
        """All heads attend to one key [c; k_rope] and one value c: q_latent, q, k, scores, map, z, values."""
        w_uk, w_uv = self.up()
        q_latent = self.absorb_q(s["q_nope"], w_uk)
        q, k = self.beside(q_latent, s.get("q_rope")), self.beside(held["c"], held.get("k_rope"))
        attended = self.attend(q, k, held["c"], bounds)
        stages = {name: attended[name] for name in ("scores", "map", "z")}
        values = self.flat(self.absorb_v(attended["z"], w_uv))
        return {"q_latent": q_latent, "q": q, "k": k, **stages, "values": values}

    def absorb_q(self, q: np.ndarray, w_uk: np.ndarray) -> np.ndarray:
        """Queries in the latent's space: q_i W_UK,iᵀ."""
        return np.einsum("bhnd,hcd->bhnc", q, w_uk)

    def absorb_v(self, z: np.ndarray, w_uv: np.ndarray) -> np.ndarray:
        """Values of the attended latents: z_i W_UV,i."""
        return np.einsum("bhnc,hcd->bhnd", z, w_uv)

    # --- backward

    def layer_backward(self, s: Arrays) -> Arrays:
        """All gradients: of the stages of a forward pass, of x and of the parameters."""
        g: Arrays = {}
        d_x = self.finish_backward(s, g)
        (self.absorbed_backward if self.absorbs() else self.decompressed_backward)(s, g)
        g["d_c_proj"] = self.norm_backward(g["d_c"], s["c_proj"], "norm_c", g)
        d_x = d_x + self.into("dkv", self.given["x"], g["d_c_proj"], g)
        d_query = self.into("uq" if self.compressed() else "q", s.get("c_q", self.given["x"]), g["d_q_nope"], g)
        if self.rope_width():
            g["d_q_rope_proj"], g["d_k_rope_proj"] = self.rotate_back(g["d_q_rope"]), self.rotate_back(g["d_k_rope"])
            d_x = d_x + self.into("kr", self.given["x"], g["d_k_rope_proj"], g)
            d_query = d_query + self.into("qr", s.get("c_q", self.given["x"]), g["d_q_rope_proj"], g)
        if self.compressed():
            g["d_c_q"] = d_query
            g["d_c_q_proj"] = self.norm_backward(g["d_c_q"], s["c_q_proj"], "norm_q", g)
            d_query = self.into("dq", self.given["x"], g["d_c_q_proj"], g)
        return {**g, "d_x": d_x + d_query}

    def into(self, name: str, y: np.ndarray, d: np.ndarray, g: Arrays) -> np.ndarray:
        """Store d_w and d_b of a projection in `g` and return the gradient of its input; d is flat or has heads."""
        d = self.flat(d) if d.ndim == 4 else d
        g[f"d_w_{name}"] = np.einsum("bni,bnj->ij", y, d)
        if f"b_{name}" in self.given:
            g[f"d_b_{name}"] = self.d_bias(d)
        return d @ self.given[f"w_{name}"].T

    def d_bias(self, d: np.ndarray) -> np.ndarray:
        """Gradient of a bias."""
        return d.sum((0, 1))

    def decompressed_backward(self, s: Arrays, g: Arrays) -> None:
        """Store in `g` the gradients from d_z to d_q_nope, d_q_rope, d_c and d_k_rope, and of W_UK and W_UV."""
        n_h, d_nope = self.settings["config"]["n_heads"], self.settings["config"]["nope_dim"]
        w_uk, w_uv = self.up()
        g["d_z"] = self.heads(g["d_values"], n_h)
        g |= self.attend_backward(g["d_z"], None, s["q"], s["map"], n_h, n_h)
        g["d_q_nope"], g["d_q_rope"] = g["d_q"][..., :d_nope], g["d_q"][..., d_nope:]
        g["d_k_nope"], g["d_k_rope"] = g["d_k"][..., :d_nope], self.d_shared_key(g["d_k"][..., d_nope:])
        g["d_w_uk"] = self.side_by_side(np.einsum("bnc,bhnd->hcd", s["c"][:, 0], g["d_k_nope"]))
        g["d_w_uv"] = self.side_by_side(np.einsum("bnc,bhnd->hcd", s["c"][:, 0], g["d_v"]))
        g["d_c"] = self.through_keys(g["d_k_nope"], w_uk) + self.through_values(g["d_v"], w_uv)

    def absorbed_backward(self, s: Arrays, g: Arrays) -> None:
        """As :meth:`decompressed_backward`, where the core has one key [c; k_rope] and one value c."""
        n_h, d_c = self.settings["config"]["n_heads"], self.settings["config"]["latent_dim"]
        w_uk, w_uv = self.up()
        d_u = self.heads(g["d_values"], n_h)
        g["d_z"] = np.einsum("bhnd,hcd->bhnc", d_u, w_uv)
        g |= self.attend_backward(g["d_z"], None, s["q"], s["map"], 1, 1)
        g["d_q_latent"], g["d_q_rope"] = g["d_q"][..., :d_c], g["d_q"][..., d_c:]
        g["d_q_nope"], g["d_k_rope"] = np.einsum("bhnc,hcd->bhnd", g["d_q_latent"], w_uk), g["d_k"][..., d_c:]
        g["d_w_uk"] = self.side_by_side(np.einsum("bhnc,bhnd->hcd", g["d_q_latent"], s["q_nope"]))
        g["d_w_uv"] = self.side_by_side(np.einsum("bhnc,bhnd->hcd", s["z"], d_u))
        g["d_c"] = self.latent_as_key_and_value(g["d_k"][..., :d_c], g["d_v"])

    def side_by_side(self, w: np.ndarray) -> np.ndarray:
        """The matrices of all heads as one: (n_h, d_c, d) → (d_c, n_h·d)."""
        return w.transpose(1, 0, 2).reshape(w.shape[1], -1)

    def latent_as_key_and_value(self, d_k: np.ndarray, d_v: np.ndarray) -> np.ndarray:
        """d_c where the latent is both key and value, (B, 1, N, d_c)."""
        return d_k + d_v

    def d_shared_key(self, d: np.ndarray) -> np.ndarray:
        """Gradient of the shared key, the sum over all heads: (B, n_h, N, d_rope) → (B, 1, N, d_rope)."""
        return d.sum(1, keepdims=True)

    def through_keys(self, d: np.ndarray, w_uk: np.ndarray) -> np.ndarray:
        """The contribution of the keys to d_c, (B, 1, N, d_c)."""
        return np.einsum("bhnd,hcd->bnc", d, w_uk)[:, None]

    def through_values(self, d: np.ndarray, w_uv: np.ndarray) -> np.ndarray:
        """The contribution of the values to d_c, (B, 1, N, d_c)."""
        return np.einsum("bhnd,hcd->bnc", d, w_uv)[:, None]

    def norm_backward(self, d: np.ndarray, c: np.ndarray, name: str, g: Arrays) -> np.ndarray:
        """Store the gain's gradient in `g` and return that of the latent before its norm."""
        if name not in self.given:
            return d
        d_c, g[f"d_{name}"] = normed_backward(d, c, self.given[name], self.norm_eps())
        return d_c
