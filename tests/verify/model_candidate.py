"""A model of Llama's form that is written apart from the library, in plain NumPy, and can make one mistake in one block.

It reads Hugging Face's names and layouts, has its heads token-major, and rounds every operation to its dtype.
"""

from typing import Any

import numpy as np

SIZES: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "vocab_size": 61,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def random_state(seed=0, sizes=SIZES):
    """Random float32 weights, the gains not 1, under Hugging Face's names."""
    rng, c = np.random.default_rng(seed), sizes
    h, d, width = c["hidden_size"], c["head_dim"], c["intermediate_size"]
    n, n_k = c["num_attention_heads"], c["num_key_value_heads"]

    def matrix(out, of):
        return (rng.standard_normal((out, of)) * of**-0.5).astype(np.float32)

    def gain():
        return (1 + 0.3 * rng.standard_normal(h)).astype(np.float32)

    state = {"model.embed_tokens.weight": 0.05 * rng.standard_normal((c["vocab_size"], h)).astype(np.float32)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        state |= {f"{p}input_layernorm.weight": gain(), f"{p}post_attention_layernorm.weight": gain()}
        for name, heads in (("q", n), ("k", n_k), ("v", n_k)):
            state[f"{p}self_attn.{name}_proj.weight"] = 1.5 * matrix(heads * d, h)
        state[f"{p}self_attn.o_proj.weight"] = matrix(h, n * d)
        state |= {f"{p}mlp.{name}_proj.weight": matrix(width, h) for name in ("gate", "up")}
        state[f"{p}mlp.down_proj.weight"] = matrix(h, width)
    return state | {"model.norm.weight": gain(), "lm_head.weight": 3 * matrix(c["vocab_size"], h)}


class Llama:
    """The candidate; a mistake is a method that a subclass or `wrong` replaces in the block `at`."""

    def __init__(self, state, sizes=SIZES, dtype=np.float32, at=None, **wrong):
        self.c, self.dtype, self.at, self.wrong = sizes, dtype, at, wrong
        self.p = {name: x.astype(dtype) for name, x in state.items()}

    def do(self, step, block, *args):
        """The step, or the wrong one in its block."""
        found = self.wrong.get(step) if block == self.at else None
        return getattr(self, step)(*args) if found is None else found(self, *args)

    def cast(self, x):
        return x.astype(self.dtype)

    def linear(self, x, w):
        return self.cast(x.astype(np.float32) @ w.astype(np.float32).T)

    def norm(self, x, g):
        wide = x.astype(np.float32)
        wide = wide / np.sqrt((wide * wide).mean(-1, keepdims=True, dtype=np.float32) + self.c["rms_norm_eps"])
        return self.cast(wide.astype(self.dtype) * g)

    def angles(self, n):
        d = self.c["head_dim"]
        frequencies = (self.c["rope_theta"] ** (-np.arange(0, d, 2) / d)).astype(np.float32)
        angles = np.arange(n, dtype=np.float32)[:, None] * frequencies  # in float32, as most programs have it
        return self.cast(np.cos(angles)), self.cast(np.sin(angles))

    def rope(self, x):
        cos, sin = (t[:, None] for t in self.angles(x.shape[1]))
        a, b = np.split(x, 2, axis=-1)
        return self.cast(np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1))

    def scale(self):
        return self.c["head_dim"] ** -0.5

    def shared(self, x):
        return np.repeat(x, self.c["num_attention_heads"] // self.c["num_key_value_heads"], axis=2)

    def visible(self, n):
        return np.tri(n, dtype=bool)

    def merged(self, z):
        return z.reshape(*z.shape[:2], -1)

    def weight(self, name, i):
        return self.p[f"model.layers.{i}.{name}.weight"]

    def add(self, x, out, normed):
        return self.cast(x + out)

    add_mlp = add

    def activate(self, gate, up):
        return self.cast(self.cast(gate / (1 + np.exp(-gate))) * up)

    norm_1 = norm_2 = final_norm = norm

    def embed(self, ids):
        return self.p["model.embed_tokens.weight"][ids]

    def head(self, x):
        return self.linear(x, self.p["lm_head.weight"])

    def run(self, ids):
        """All stages under the library's names, heads token-major."""
        found, (batch, n), d = {"ids": ids}, ids.shape, self.c["head_dim"]
        x = found["embedding"] = self.do("embed", "embedding", ids)
        for i in range(self.c["num_hidden_layers"]):
            do, s = lambda step, *args, i=i: self.do(step, i, *args), f"blocks.{i}."
            w = lambda name, do=do, i=i: do("weight", name, i)  # noqa: E731
            found[f"{s}input"] = x
            u = found[f"{s}norm_1"] = do("norm_1", x, w("input_layernorm"))
            q, k, v = (self.linear(u, w(f"self_attn.{a}_proj")).reshape(batch, n, -1, d) for a in "qkv")
            found |= {f"{s}attention.q_proj": q, f"{s}attention.k_proj": k, f"{s}attention.v": v}
            q, k = do("rope", q), do("rope", k)
            found |= {f"{s}attention.q": q, f"{s}attention.k": k}
            k, v = do("shared", k), do("shared", v)
            scores = np.einsum("bnhd,bmhd->bhnm", q.astype(np.float32), k.astype(np.float32)) * do("scale")
            found[f"{s}attention.scores"] = scores.astype(np.float32)
            seen = np.where(do("visible", n), scores, -np.inf)
            top = seen.max(-1, keepdims=True)
            weights = np.exp(seen - top)
            found[f"{s}attention.lse"] = (top + np.log(weights.sum(-1, keepdims=True)))[..., 0].astype(np.float32)
            weights /= weights.sum(-1, keepdims=True)
            found[f"{s}attention.map"] = weights.astype(np.float32)
            z = self.cast(np.einsum("bhnm,bmhd->bnhd", weights, v.astype(np.float32)))
            found[f"{s}attention.z"] = z
            heads = found[f"{s}attention.heads"] = do("merged", z)
            out = found[f"{s}attention.out"] = self.linear(heads, w("self_attn.o_proj"))
            h = found[f"{s}residual"] = do("add", x, out, u)
            u = found[f"{s}norm_2"] = do("norm_2", h, w("post_attention_layernorm"))
            gate, up = self.linear(u, w("mlp.gate_proj")), self.linear(u, w("mlp.up_proj"))
            found |= {f"{s}mlp.gate": gate, f"{s}mlp.up": up}
            product = found[f"{s}mlp.product"] = do("activate", gate, up)
            out = found[f"{s}mlp.out"] = self.linear(product, w("mlp.down_proj"))
            x = found[f"{s}output"] = do("add_mlp", h, out, u)
        u = found["norm"] = self.do("final_norm", "head", x, self.p["model.norm.weight"])
        return found | {"logits": self.do("head", "head", u)}
