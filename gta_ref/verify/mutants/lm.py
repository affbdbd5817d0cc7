"""Wrong implementations of language models: embedding, norms, residuals, SwiGLU, head, loss and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import numpy as np

from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.stepwise.attention import Arrays
from gta_ref.verify.stepwise.lm import IGNORED, LmSteps
from gta_ref.verify.stepwise.rmsnorm import normed, normed_backward

base = LmSteps  # its steps are called as base.step(self, ...)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def _gelu(a: np.ndarray) -> np.ndarray:
    """GELU in its form with tanh."""
    return a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def _gain(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda self, x, name: normed(x, change(self.given[name]), self.eps())


def _root_plus_eps(self: LmSteps, x: np.ndarray, name: str) -> np.ndarray:
    return self.given[name] * x / (np.sqrt(np.mean(x**2, axis=-1, keepdims=True)) + self.eps())


def _centred(self: LmSteps, x: np.ndarray, name: str) -> np.ndarray:
    return base.rms(self, x - x.mean(-1, keepdims=True), name)


def _summed(self: LmSteps, x: np.ndarray, name: str) -> np.ndarray:
    return self.given[name] * x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + self.eps())


def _logits_by_root(self: LmSteps, x: np.ndarray) -> Arrays:
    found = base.finish_model(self, x)
    return {**found, "logits": found["logits"] / x.shape[-1] ** 0.5}


def _embedding(self: LmSteps) -> np.ndarray:
    return self.given["embed"].T


def _all_counted(self: LmSteps) -> np.ndarray:
    return np.maximum(base.targets(self), 0)


def _next_ids(self: LmSteps) -> np.ndarray:
    ids = self.given["ids"]
    return np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], IGNORED)], axis=1)


def _moved_again(self: LmSteps) -> np.ndarray:
    targets = base.targets(self)
    return np.concatenate([targets[:, 1:], np.full_like(targets[:, :1], IGNORED)], axis=1)


def _own_tokens(self: LmSteps) -> np.ndarray:
    """The token itself where its successor would be the target."""
    return np.where(base.targets(self) == IGNORED, IGNORED, self.given["ids"])


def _around(self: LmSteps) -> np.ndarray:
    return np.roll(self.given["ids"], -1, axis=1) if "targets" not in self.given else base.targets(self)


def _mean_of_sequences(self: LmSteps, logits: np.ndarray) -> np.ndarray:
    counted, targets = self.counted(), np.maximum(self.targets(), 0)
    picked = np.take_along_axis(self.log_probabilities(logits), targets[..., None], axis=-1)[..., 0]
    n = counted.sum(1)
    return np.reshape(-((picked * counted).sum(1)[n > 0] / n[n > 0]).mean(), 1)


def _without_target(self: LmSteps, logits: np.ndarray) -> np.ndarray:
    return np.exp(self.log_probabilities(logits)) * self.counted()[..., None] / self.count()


def _ignored_too(self: LmSteps, logits: np.ndarray) -> np.ndarray:
    d = np.exp(self.log_probabilities(logits)) / self.count()
    return np.where(self.counted()[..., None], base.d_logits(self, logits), d)


def _without_mean_term(self: LmSteps, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    d_x, g[f"d_{name}"] = normed_backward(d, x, self.given[name], self.eps(), mean_term=0.0)
    return d_x


def _gain_forgotten(self: LmSteps, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    _, g[f"d_{name}"] = normed_backward(d, x, self.given[name], self.eps())
    return normed_backward(d, x, np.ones_like(self.given[name]), self.eps())[0]


def _gain_of_input(self: LmSteps, d: np.ndarray, x: np.ndarray, name: str, g: Arrays) -> np.ndarray:
    d_x = base.rms_backward(self, d, x, name, g)
    g[f"d_{name}"] = (d * x).reshape(-1, x.shape[-1]).sum(0)
    return d_x


def _last_wins(self: LmSteps, d_x: np.ndarray) -> np.ndarray:
    """A token that stands in several places gets the gradient of the last."""
    d = np.zeros_like(self.given["embed"])
    d[self.given["ids"].reshape(-1)] = d_x.reshape(-1, d_x.shape[-1])
    return d


def _silu_alone(self: LmSteps, d: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return d * b * _sigmoid(a), d * a * _sigmoid(a)


def _exchanged(self: LmSteps, d: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d_a, d_b = base.swiglu_backward(self, d, a, b)
    return d_b, d_a


def _one_cache(self: LmSteps) -> list[Arrays]:
    return list(repeat({}, len(self.layers)))


def _in_blocks(name: str) -> str:
    """The gradient of a block's parameter, in the last block of the models of the cases."""
    return f"d_layers.1.{name} d_layers.0.{name}"


# Two lines for each mutant: the kind of cases, the array that goes wrong first and the cause; then the replaced step.
# fmt: off
MUTANTS: list[Mutant] = [
    # --- forward

    wrong("lm", "logits", "embedding multiplied by √H",
        embed=lambda self, ids: base.embed(self, ids) * self.given["embed"].shape[1] ** 0.5),
    wrong("lm", "logits", "final norm missing",
        final_norm=lambda self, x: x),
    wrong("lm", "logits", "norm before the attention missing",
        norm_1=lambda self, i, x: x),
    wrong("lm", "logits", "norm before the MLP missing",
        norm_2=lambda self, i, stages: stages["h"]),
    wrong("lm", "logits", "norms after attention and MLP instead of before them",
        norm_1=lambda self, i, x: x, norm_2=lambda self, i, stages: stages["h"],
        add_attention=lambda self, i, s, out: s["x"] + self.rms(out, f"layers.{i}.norm_1"),
        add_mlp=lambda self, i, s, out: s["h"] + self.rms(out, f"layers.{i}.norm_2")),
    wrong("lm", "logits", "norms after the sums of the residuals, as in the first Transformer",
        norm_1=lambda self, i, x: x, norm_2=lambda self, i, stages: stages["h"],
        add_attention=lambda self, i, s, out: self.rms(s["x"] + out, f"layers.{i}.norm_1"),
        add_mlp=lambda self, i, s, out: self.rms(s["h"] + out, f"layers.{i}.norm_2")),
    wrong("lm", "logits", "gains of the two norms of a block exchanged",
        norm_1=lambda self, i, x: self.rms(x, f"layers.{i}.norm_2"),
        norm_2=lambda self, i, stages: self.rms(stages["h"], f"layers.{i}.norm_1")),
    wrong("lm", "logits", "gains of the norms missing",
        rms=_gain(np.ones_like)),
    wrong("lm", "logits", "gains of the norms taken as 1 + g",
        rms=_gain(lambda gain: 1 + gain)),
    wrong("lm", "logits", "mean subtracted in the norms (LayerNorm instead of RMSNorm)",
        rms=_centred),
    wrong("lm", "logits", "sum of the squares instead of their mean in the norms",
        rms=_summed),
    wrong("lm", "logits", "ε of the norms outside the root",
        rms=_root_plus_eps),
    wrong("lm", "logits", "ε of the norms 1e-6 instead of 1e-5",
        eps=lambda self: 1e-6),
    wrong("lm", "logits", "residual around the attention missing",
        add_attention=lambda self, i, s, out: out),
    wrong("lm", "logits", "residual around the MLP missing",
        add_mlp=lambda self, i, s, out: out),
    wrong("lm", "logits", "residuals taken after the norms instead of before them",
        add_attention=lambda self, i, s, out: s["normed_1"] + out,
        add_mlp=lambda self, i, s, out: s["normed_2"] + out),
    wrong("lm", "logits", "MLP reads the block's input, beside the attention instead of after it",
        norm_2=lambda self, i, stages: self.rms(stages["x"], f"layers.{i}.norm_2")),
    wrong("lm", "logits", "halves of SwiGLU exchanged: silu on the up-projection",
        swiglu=lambda self, a, b: base.swiglu(self, b, a)),
    wrong("lm", "logits", "silu missing in SwiGLU",
        swiglu=lambda self, a, b: a * b),
    wrong("lm", "logits", "sigmoid instead of silu in SwiGLU",
        swiglu=lambda self, a, b: _sigmoid(a) * b),
    wrong("lm", "logits", "GELU instead of silu in SwiGLU",
        swiglu=lambda self, a, b: _gelu(a) * b),
    wrong("lm", "logits", "head tied to the embedding although it has its own weight",
        head=_embedding),
    wrong("lm", "logits", "logits divided by √H",
        finish_model=_logits_by_root),

    # --- loss

    wrong("lm", "loss", "loss not shifted: every token predicts itself",
        targets=_own_tokens),
    wrong("lm", "loss", "targets shifted once more",
        targets=_moved_again),
    wrong("lm", "loss", "given targets ignored: the next token is taken",
        targets=_next_ids),
    wrong("lm", "loss", "last token predicts the first of its sequence",
        targets=_around),
    wrong("lm", "loss", "targets that do not count taken as token 0",
        targets=_all_counted),
    wrong("lm", "loss", "loss averaged over all tokens, not over the targets that count",
        count=lambda self: self.counted().size),
    wrong("lm", "loss", "loss averaged over N − 1 tokens of each sequence, whatever counts",
        count=lambda self: self.counted()[:, 1:].size),
    wrong("lm", "loss", "loss summed instead of averaged",
        count=lambda self: 1),
    wrong("lm", "loss", "loss averaged over the sequences, each averaged over its targets",
        loss=_mean_of_sequences),
    wrong("lm", "loss", "loss in bits instead of nats",
        loss=lambda self, logits: base.loss(self, logits) / np.log(2)),
    wrong("lm", "loss", "loss with the wrong sign",
        loss=lambda self, logits: -base.loss(self, logits)),

    # --- backward

    wrong("lm", "d_head d_norm", "gradient of the loss not divided by the number of targets that count",
        d_logits=lambda self, logits: base.d_logits(self, logits) * self.count()),
    wrong("lm", "d_head d_norm", "softmax's gradient without subtracting 1 at the target",
        d_logits=_without_target),
    wrong("lm", "d_head d_norm", "targets that do not count have a gradient",
        d_logits=_ignored_too),
    wrong("lm", "d_embed", "gradient of a tied embedding lacks the head's part",
        tie=lambda self, d_embed, d_head: d_embed),
    wrong("lm", "d_embed", "gradient of a tied embedding lacks the input's part",
        tie=lambda self, d_embed, d_head: d_head.T),
    wrong("lm", "d_embed", "gradient of the embedding from the last place of each token, not summed over its places",
        d_embed=_last_wins),
    wrong("lm", _in_blocks("mlp.w_down"), "mean term missing in the backward of the norms",
        rms_backward=_without_mean_term),
    wrong("lm", _in_blocks("mlp.w_down"), "gain missing in the backward of the norms",
        rms_backward=_gain_forgotten),
    wrong("lm", "d_norm", "gradient of the norms' gains from their inputs, not divided by the root",
        rms_backward=_gain_of_input),
    wrong("lm", "d_layers.0.mlp.w_down d_embed", "residual around the attention missing in the backward",
        past_attention=lambda self, d_h, d_attention: d_attention),
    wrong("lm", _in_blocks("attention.w_o"), "residual around the MLP missing in the backward",
        past_mlp=lambda self, d_y, d_mlp: d_mlp),
    wrong("lm", _in_blocks("mlp.w_gate"), "silu's gradient without the part from its sigmoid",
        swiglu_backward=_silu_alone),
    wrong("lm", _in_blocks("mlp.w_up"), "gradients of SwiGLU's two inputs exchanged",
        swiglu_backward=_exchanged),

    # --- decoding

    wrong("lm", "logits", "one cache for all layers",
        caches=_one_cache),
]
# fmt: on
