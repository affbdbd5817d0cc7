"""The steps of the language models: embedding, blocks of attention and SwiGLU, final norm, head, loss and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps, variant
from gta_ref.verify.stepwise.gta import GtaSteps
from gta_ref.verify.stepwise.headwise import HeadwiseSteps
from gta_ref.verify.stepwise.layer import LayerSteps
from gta_ref.verify.stepwise.mla import MlaSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward

LAYERS: dict[str, type[LayerSteps]] = {
    "gta": GtaSteps,
    **dict.fromkeys(("mha", "gqa", "gva", "gha"), HeadwiseSteps),
    "mla": MlaSteps,
}
IGNORED = -100  # a target that does not count


class LmSteps(AttentionSteps):
    """A language model in steps; its attention layers are those of their mechanism.

    A stage of block i is called ``layers.i.NAME`` inside, as its parameters are.
    """

    layers: list[LayerSteps]
    in_layers: Mapping[str, Callable[..., Any]]  # steps that replace those of the attention layers

    def case(self) -> Arrays:
        """All arrays of the case."""
        self.layers = [self.layer(i) for i in range(self.settings["model"]["n_layers"])]
        if self.settings.get("chunks"):
            return self.decode_case()
        s = self.model_forward()
        return {"logits": s["logits"], "loss": self.loss(s["logits"]), **self.model_backward(s)}

    def layer(self, i: int) -> LayerSteps:
        """The attention of block i, without its tokens."""
        made = variant(LAYERS[self.settings["mechanism"]], self.in_layers)()
        prefix = f"layers.{i}.attention."
        own = {name.removeprefix(prefix): x for name, x in self.given.items() if name.startswith(prefix)}
        k_start, k_stop = self.sequence_bounds()
        made.given = {**own, "positions": self.token_positions(k_start), "k_start": k_start, "k_stop": k_stop}
        made.settings = self.settings
        return made

    def sequence_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """k_start and k_stop: which tokens of each sequence are real."""
        batch, length = self.given["ids"].shape
        k_start, k_stop = (self.given.get(name) for name in ("k_start", "k_stop"))
        return (
            np.zeros(batch, np.int64) if k_start is None else k_start,
            np.full(batch, length) if k_stop is None else k_stop,
        )

    def token_positions(self, k_start: np.ndarray) -> np.ndarray:
        """Positions of the tokens, (B, N): real tokens are counted, padding is not."""
        if "positions" in self.given:
            return self.given["positions"]
        return np.maximum(np.arange(self.given["ids"].shape[1]) - k_start[:, None], 0)

    # --- forward

    def model_forward(self) -> Arrays:
        """All stages of a forward pass."""
        x = self.embed(self.given["ids"])
        s: Arrays = {}
        for i in range(len(self.layers)):
            x = self.block(i, x, s)
        return {**s, **self.finish_model(x)}

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """A row of the embedding for every token."""
        return self.given["embed"][ids]

    def block(self, i: int, x: np.ndarray, s: Arrays) -> np.ndarray:
        """Block i: h = x + attention(norm(x)), y = h + mlp(norm(h)); the stages that the backward needs go to `s`."""
        stages = {"x": x, "normed_1": self.norm_1(i, x)}
        self.layers[i].given = {**self.layers[i].given, "x": stages["normed_1"]}
        attention = self.layers[i].layer_forward()
        return self.second_half(i, stages, attention, s)

    def second_half(self, i: int, stages: Arrays, attention: Arrays, s: Arrays) -> np.ndarray:
        """From the output of the attention of block i to that of the block."""
        stages["h"] = self.add_attention(i, stages, attention["out"])
        stages["normed_2"] = self.norm_2(i, stages)
        stages["a"] = stages["normed_2"] @ self.given[f"layers.{i}.mlp.w_gate"]
        stages["b"] = stages["normed_2"] @ self.given[f"layers.{i}.mlp.w_up"]
        stages["product"] = self.swiglu(stages["a"], stages["b"])
        s |= {f"layers.{i}.{name}": x for name, x in stages.items()}
        s |= {f"layers.{i}.attention.{name}": x for name, x in attention.items()}
        return self.add_mlp(i, stages, stages["product"] @ self.given[f"layers.{i}.mlp.w_down"])

    def eps(self) -> float:
        """ε of the RMSNorms."""
        return self.settings["model"].get("norm_eps", 1e-5)

    def norm_1(self, i: int, x: np.ndarray) -> np.ndarray:
        """The norm of block i before its attention."""
        return self.rms(x, f"layers.{i}.norm_1")

    def norm_2(self, i: int, stages: Arrays) -> np.ndarray:
        """The norm of block i before its MLP."""
        return self.rms(stages["h"], f"layers.{i}.norm_2")

    def final_norm(self, x: np.ndarray) -> np.ndarray:
        """The norm before the head."""
        return self.rms(x, "norm")

    def rms(self, x: np.ndarray, name: str) -> np.ndarray:
        """RMSNorm of every token."""
        return normed(x, self.given[name], self.eps())

    def add_attention(self, i: int, stages: Arrays, out: np.ndarray) -> np.ndarray:
        """The residual around the attention of block i, h."""
        return stages["x"] + out

    def add_mlp(self, i: int, stages: Arrays, out: np.ndarray) -> np.ndarray:
        """The residual around the MLP of block i, its result."""
        return stages["h"] + out

    def swiglu(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """silu(a) b."""
        return a / (1 + np.exp(-a)) * b

    def finish_model(self, x: np.ndarray) -> Arrays:
        """The stages after the blocks: x, normed, logits."""
        n = self.final_norm(x)
        return {"x": x, "normed": n, "logits": n @ self.head()}

    def head(self) -> np.ndarray:
        """The head's weight (H, vocabulary): the embedding's transpose if it is tied."""
        return self.given["embed"].T if self.tied() else self.given["head"]

    def tied(self) -> bool:
        """Whether the head is the embedding's transpose."""
        return self.settings["model"].get("tied", True)

    # --- loss

    def targets(self) -> np.ndarray:
        """The token that each position is to predict, −100 where none counts: ids shifted left by one."""
        if "targets" in self.given:
            return self.given["targets"]
        ids = self.given["ids"]
        return np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], IGNORED)], axis=1)

    def counted(self) -> np.ndarray:
        """Which positions count, (B, N)."""
        return self.targets() != IGNORED

    def count(self) -> float:
        """What the summed loss is divided by."""
        return self.counted().sum()

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logarithm of the softmax over the vocabulary."""
        moved = logits - logits.max(-1, keepdims=True)
        return moved - np.log(np.exp(moved).sum(-1, keepdims=True))

    def loss(self, logits: np.ndarray) -> np.ndarray:
        """Mean of −log p(target) over the positions that count, (1,)."""
        rows, places = np.nonzero(self.counted())
        picked = self.log_probabilities(logits)[rows, places, self.targets()[rows, places]]
        return np.reshape(-picked.sum() / self.count(), 1)

    def d_logits(self, logits: np.ndarray) -> np.ndarray:
        """Softmax minus one-hot target, over the number of positions that count; 0 at the others."""
        rows, places = np.nonzero(self.counted())
        d = np.exp(self.log_probabilities(logits))
        d[rows, places, self.targets()[rows, places]] -= 1
        return d * self.counted()[..., None] / self.count()

    # --- backward

    def model_backward(self, s: Arrays) -> Arrays:
        """The gradients of all parameters, under their names with d_ in front."""
        g: Arrays = {}
        d = self.d_logits(s["logits"])
        d_head = np.einsum("bnh,bnv->hv", s["normed"], d)
        d_x = self.final_norm_backward(d @ self.head().T, s["x"], g)
        for i in reversed(range(len(self.layers))):
            d_x = self.block_backward(i, d_x, s, g)
        g["d_embed"] = self.d_embed(d_x)
        if self.tied():
            g["d_embed"] = self.tie(g["d_embed"], d_head)
        else:
            g["d_head"] = d_head
        return g

    def final_norm_backward(self, d: np.ndarray, x: np.ndarray, g: Arrays) -> np.ndarray:
        """The gradient through the norm before the head."""
        return self.rms_backward(d, x, "norm", g)

    def rms_backward(self, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
        """Store the gain's gradient in `g` and return that of x."""
        d_x, g[f"d_{name}"] = normed_backward(d, x, self.given[name], self.eps())
        return d_x

    def block_backward(self, i: int, d_y: np.ndarray, s: Arrays, g: Arrays) -> np.ndarray:
        """Store the gradients of block i in `g` and return that of its input."""
        p, layer = f"layers.{i}.", self.layers[i]
        d_product = d_y @ self.given[f"{p}mlp.w_down"].T
        g[f"d_{p}mlp.w_down"] = np.einsum("bni,bnj->ij", s[f"{p}product"], d_y)
        d_a, d_b = self.swiglu_backward(d_product, s[f"{p}a"], s[f"{p}b"])
        d_normed = np.zeros_like(d_y)
        for name, d in (("gate", d_a), ("up", d_b)):
            g[f"d_{p}mlp.w_{name}"] = np.einsum("bni,bnj->ij", s[f"{p}normed_2"], d)
            d_normed = d_normed + d @ self.given[f"{p}mlp.w_{name}"].T
        d_h = self.past_mlp(d_y, self.rms_backward(d_normed, s[f"{p}h"], f"{p}norm_2", g))
        layer.given = {**layer.given, "d_out": d_h}
        prefix = f"{p}attention."
        found = layer.layer_backward({n.removeprefix(prefix): x for n, x in s.items() if n.startswith(prefix)})
        g |= {f"d_{prefix}{name}": found[f"d_{name}"] for name in layer.given if f"d_{name}" in found and name != "x"}
        return self.past_attention(d_h, self.rms_backward(found["d_x"], s[f"{p}x"], f"{p}norm_1", g))

    def swiglu_backward(self, d: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d_a and d_b of silu(a) b."""
        sigmoid = 1 / (1 + np.exp(-a))
        return d * b * (sigmoid + a * sigmoid * (1 - sigmoid)), d * a * sigmoid

    def past_mlp(self, d_y: np.ndarray, d_mlp: np.ndarray) -> np.ndarray:
        """d_h: the part that passes the MLP by, and the part that goes through it."""
        return d_y + d_mlp

    def past_attention(self, d_h: np.ndarray, d_attention: np.ndarray) -> np.ndarray:
        """d_x of a block: the part that passes the attention by, and the part that goes through it."""
        return d_h + d_attention

    def d_embed(self, d_x: np.ndarray) -> np.ndarray:
        """Gradient of the embedding as the model's input: the sum over all places where a token stands."""
        d = np.zeros_like(self.given["embed"])
        np.add.at(d, self.given["ids"], d_x)
        return d

    def tie(self, d_embed: np.ndarray, d_head: np.ndarray) -> np.ndarray:
        """Gradient of a tied embedding: that of the input and that of the head."""
        return d_embed + d_head.T

    # --- decoding

    def decode_case(self) -> Arrays:
        """Decode in chunks, with a cache for each block."""
        caches = self.caches()
        wholes = [dict(layer.given) for layer in self.layers]
        logits, start = [], 0
        for n in self.settings["chunks"]:
            x = self.embed(self.given["ids"][:, start : start + n])
            for i, layer in enumerate(self.layers):
                stages = {"x": x, "normed_1": self.norm_1(i, x)}
                out = layer.decode_step(wholes[i], stages["normed_1"], caches[i], start)
                x = self.second_half(i, stages, {"out": out}, {})
            logits.append(self.finish_model(x)["logits"])
            start += n
        return {"logits": np.concatenate(logits, axis=1)}

    def caches(self) -> list[Arrays]:
        """An empty cache for each block."""
        return [{} for _ in self.layers]
