"""The convention of LLM-Viewer, with which the paper's authors found "2×"; for comparison, and with its two slips.

It differs from :mod:`gta_ref.costs.operators` as follows:

- there is no causal saving, and a decoding step at length N attends to N keys, without the new token's own;
- an element has 2 bytes; RoPE, biases and the look-up in the embedding are not counted;
- two slips: the scores of a prefill move the query as if it had n_k heads, and the MLP's activation moves H elements
  in a place where it really moves I;
- GTA's decoder counts as one linear map (n_q·d_l → H/n_q), and a residual addition moves 2 H elements per token;
- the head moves one row of logits, whatever the batch is;
- an H100 reaches 989.5 TFLOP/s and 3072 GB/s.
"""

from __future__ import annotations

from gta_ref.costs.hardware import Hardware
from gta_ref.costs.model import Model, check_model
from gta_ref.costs.operators import Operator
from gta_ref.errors import as_size, check_bool
from gta_ref.mechanisms.structure import Structure

H100 = Hardware("h100", 989.5e12, 3072e9, 80 * 10**9, "LLM-Viewer's own figures for an NVIDIA H100")


def operators(model: Model, batch: int, length: int, *, prefill: bool, fused: bool) -> list[Operator]:
    """All operators of a prefill of `length` tokens, or of a decoding step at that length."""
    check_model("model", model)
    batch, length = as_size("batch", batch), as_size("length", length)
    check_bool("prefill", prefill)
    check_bool("fused", fused)
    if model.experts is not None:
        raise ValueError(f"model {model.name}: convention 'llm-viewer' has no mixtures of experts; expected 'moved'")
    found: list[Operator] = []
    for group in model.groups:
        layer = _layer(group.structure, model.intermediate_size, batch, length, prefill=prefill, fused=fused)
        n = group.n_layers
        found += [Operator(name, n * ops, n * 2 * moved) for name, ops, moved in layer]
    head = model.head_macs
    return [*found, Operator("head", 2 * batch * head, 2 * (head + model.hidden_size + model.vocab_size))]


def _layer(s: Structure, i: int, batch: int, length: int, *, prefill: bool, fused: bool) -> list[tuple[str, int, int]]:
    """Operators of a layer whose MLP has the width i, each as (name, operations, elements moved)."""
    h = s.hidden_size
    n = batch * length if prefill else batch  # tokens
    keys = batch * length
    maps = n * length * s.n_q  # elements of all maps
    layer: list[tuple[str, int, int]] = []  # name, operations, elements moved

    def linear(name: str, d_in: int, d_out: int) -> None:
        layer.append((name, 2 * d_in * d_out * n, d_in * d_out + n * (d_in + d_out)))

    for product in s.products:
        if product.name == "w_p":
            linear("decoder", s.n_q * s.d_v, h // s.n_q)
        else:
            linear("gate" if product.name == "w_g" else "projections", product.d_in, product.d_out)
    for d_in, d_out in ((h, i), (h, i), (i, h)):
        linear("mlp", d_in, d_out)

    query = keys * s.n_k * s.d_k if prefill else n * s.n_q * s.d_k
    moved = {"k": keys * s.n_k * s.d_k, "v": keys * s.n_v * s.d_v, "z": n * s.n_q * s.d_v}
    if fused:
        operations = maps * (2 * s.d_k + 5 + 2 * s.d_v)
        layer.append(("attention", operations, n * s.n_q * s.d_k + moved["k"] + moved["v"] + moved["z"]))
    else:
        layer.append(("attention", 2 * maps * s.d_k, maps + moved["k"] + query))
        layer.append(("attention", 5 * maps, 2 * maps))
        layer.append(("attention", 2 * maps * s.d_v, maps + moved["v"] + moved["z"]))
    layer += 2 * [("norm", 7 * n * h, 2 * n * h)]
    layer += 2 * [("residual", n * h, 2 * n * h)]
    layer.append(("mlp", 5 * n * i, 2 * n * i + n * h))
    if s.decoder_residual:
        layer.append(("decoder", n * h, 2 * n * h))
    if s.gate != "none":
        layer.append(("gate", 5 * n * h, 3 * n * h))
    return layer
