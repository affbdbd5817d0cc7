"""A GTA layer with faults, for the hunt in notebook 8: forward and backward in plain NumPy.

It runs without an error. Some of the faults are in its mathematics, and one is a constant that should be an argument.
In the code, `a` is the dict of arrays: x, the parameters, the mask's bounds, positions, and the gradient of the loss
with respect to the output; `c` is the configuration. Small functions come first, so that a repair replaces one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Config = Mapping[str, Any]


def split(flat: Array, heads: int) -> Array:
    """(B, N, heads·d) → (B, heads, N, d)."""
    return flat.reshape(*flat.shape[:2], heads, -1).swapaxes(1, 2)


def merge(x: Array) -> Array:
    """(B, heads, N, d) → (B, N, heads·d)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def linear(a: Arrays, name: str) -> Array:
    """A linear map of x, (B, N, H) → (B, N, width), with its bias if there is one."""
    return a["x"] @ a[f"w_{name}"] + a.get(f"b_{name}", 0)


def repeat(x: Array, c: Config) -> Array:
    """(B, n, N, d) → (B, n_q, N, d): a head for each map."""
    return np.repeat(x, c["n_q"] // x.shape[1], axis=1)


def visible(a: Arrays) -> Array:
    """(B, 1, N, N): true where a query may look."""
    i, j = np.arange(a["x"].shape[1])[:, None], np.arange(a["x"].shape[1])
    start, stop = a["k_start"][:, None, None, None], a["k_stop"][:, None, None, None]
    return (j <= i) & (start <= j) & (j < stop)


def rotate(x: Array, a: Arrays, c: Config, sign: int = 1) -> Array:
    """RoPE, or with sign −1 its backward."""
    pairing, d = c.get("rope_pairing", "half"), x.shape[-1]
    if pairing == "none":
        return x
    angle = sign * a["positions"][:, None, :, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    first, second = slice(0, d // 2), slice(d // 2, d)
    if pairing == "interleaved":
        first, second = slice(0, d, 2), slice(1, d, 2)
    y = np.empty_like(x)
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def softmax(s: Array, seen: Array) -> Array:
    """The map from the scores (B, n_q, N, N). A row that sees nothing is zero."""
    weights = np.exp(s - s.max(-1, keepdims=True)) * seen
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, 1)  # a row that sees nothing: zeros


def gate_and_slope(a: Array, c: Config) -> tuple[Array, Array]:
    """the gate, and its derivative."""
    s = 1 / (1 + np.exp(-a))
    return {
        "sigmoid": (s, s * (1 - s)),
        "silu": (a * s, s * (1 + a * (1 - s))),
        "relu2": (np.maximum(a, 0) ** 2, 2 * np.maximum(a, 0)),
        "none": (np.ones_like(a), np.zeros_like(a)),
    }[c.get("gate", "sigmoid")]


def gate_input(a: Arrays) -> Array:
    """What the gate's activation receives, (B, N, n_h·d_h)."""
    return linear(a, "g") if "w_g" in a else np.zeros((*a["x"].shape[:2], len(a["w_o"])), a["x"].dtype)


def decoder(a: Arrays, c: Config) -> Array:
    """the decoder's weight; the released code's residual is an identity in it."""
    n_q, d_l, width = a["w_p"].shape
    copies = np.tile(np.eye(d_l, dtype=a["w_p"].dtype), width // d_l)  # [I I … I]
    return a["w_p"] + copies if c.get("decoder_residual") else a["w_p"]


def latents(a: Arrays, c: Config) -> Array:
    """What is cached in place of values, (B, n_c, N, d_l)."""
    return rotate(split(linear(a, "c"), c["n_c"]), a, c)


def scale(c: Config) -> float:
    """The factor on the scores."""
    return c["latent_dim"] ** -0.5


def to_heads(u: Array, c: Config) -> Array:
    """(B, n_q, N, width) → (B, N, n_h·d_h)."""
    u = u.reshape(*u.shape[:3], -1, c["head_dim"])  # (B, n_q, N, n_h/n_q, d_h)
    return u.transpose(0, 2, 3, 1, 4).reshape(u.shape[0], u.shape[2], -1)


def softmax_backward(d_map: Array, p: Array) -> Array:
    """The gradient of the scores from that of the map and the map."""
    return p * d_map


def forward(a: Arrays, c: Config) -> Arrays:
    """All stages, in the order in which they are computed."""
    s = {f"{name}_proj": split(linear(a, name), c[f"n_{name}"]) for name in "qk"}
    s["c"] = latents(a, c)
    s["q"], s["k"] = rotate(s["q_proj"], a, c), rotate(s["k_proj"], a, c)
    s["scores"] = scale(c) * s["q"] @ repeat(s["k"], c).swapaxes(-1, -2)  # (B, n_q, N, N)
    s["map"] = softmax(s["scores"], visible(a))
    s["z"] = s["map"] @ repeat(s["c"], c)  # (B, n_q, N, d_l)
    s["values"] = to_heads(s["z"] @ decoder(a, c), c)  # (B, N, n_h·d_h)
    s["gate"] = gate_and_slope(gate_input(a), c)[0]
    s["heads"] = s["values"] * s["gate"]
    s["out"] = s["heads"] @ a["w_o"]
    return s


def backward(a: Arrays, c: Config, s: Arrays) -> Arrays:
    """The gradients of the stages, and of W_P and W_O, in reverse order."""

    def shared(d: Array, heads: int) -> Array:  # sum over the maps of a head
        return d.reshape(d.shape[0], heads, -1, *d.shape[2:]).sum(2)

    g = {"d_heads": a["d_out"] @ a["w_o"].T}
    g["d_gate"], g["d_values"] = g["d_heads"] * s["values"], g["d_heads"] * s["gate"]
    d_u = split(g["d_values"], c["n_q"])  # (B, n_q, N, width)
    g["d_z"] = d_u @ decoder(a, c).swapaxes(-1, -2)
    g["d_map"] = g["d_z"] @ repeat(s["c"], c).swapaxes(-1, -2)
    g["d_scores"] = softmax_backward(g["d_map"], s["map"])
    g["d_q"] = scale(c) * g["d_scores"] @ repeat(s["k"], c)
    g["d_k"] = shared(scale(c) * g["d_scores"].swapaxes(-1, -2) @ s["q"], c["n_k"])
    g["d_c"] = shared(s["map"].swapaxes(-1, -2) @ g["d_z"], c["n_c"])
    g["d_q_proj"], g["d_k_proj"] = rotate(g["d_q"], a, c, -1), rotate(g["d_k"], a, c, -1)
    g["d_w_p"] = (s["z"].swapaxes(-1, -2) @ d_u).sum(0)
    g["d_w_o"] = s["heads"].reshape(-1, len(a["w_o"])).T @ a["d_out"].reshape(-1, a["d_out"].shape[-1])
    return g


def parameters_backward(a: Arrays, c: Config, g: Arrays) -> Arrays:
    """The gradients of x and of the weights that x is multiplied with."""
    slope = gate_and_slope(gate_input(a), c)[1]
    into = {"q": merge(g["d_q_proj"]), "k": merge(g["d_k_proj"]), "c": merge(g["d_c"]), "g": g["d_gate"] * slope}
    g["d_x"] = np.zeros_like(a["x"])
    for name, d in into.items():
        if f"w_{name}" in a:
            g[f"d_w_{name}"] = np.einsum("bni,bnj->ij", a["x"], d)
            g[f"d_b_{name}"] = d.sum((0, 1))
            g["d_x"] += d @ a[f"w_{name}"].T
    return g


def run(arrays: Arrays, settings: Mapping[str, Any]) -> Arrays:
    """The layer as the verification kit calls it: every stage and every gradient, by name."""
    c = settings["config"]
    stages = forward(arrays, c)
    return {**stages, **parameters_backward(arrays, c, backward(arrays, c, stages))}
