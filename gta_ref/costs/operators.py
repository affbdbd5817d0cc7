"""A forward pass as a list of operators, each with its operations and the bytes that it really moves.

What an operator reads and writes is counted once; nothing stays in the processor's caches between two operators. If
the attention is fused, a query that sees only half of the keys costs half (the causal saving), because such kernels
skip what is masked; unfused attention computes, writes and reads whole maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from gta_ref.costs.flops import pairs
from gta_ref.costs.model import Model, check_model, check_structure
from gta_ref.errors import as_size, check_bool
from gta_ref.mechanisms.structure import Product, Structure


@dataclass(frozen=True)
class Operator:
    """One operator of a pass over all layers.

    Attributes
    ----------
    name : str
    operations : int
        A multiply–accumulate counts as two.
    bytes : int
        Bytes read and written.
    """

    name: str
    operations: int
    bytes: int


def operators(model: Model, batch: int, new: int, held: int, *, fused: bool, itemsize: int = 2) -> list[Operator]:
    """All operators of a prefill (held = 0) or of a decoding step; a layer's operators have the cost of all layers.

    Parameters
    ----------
    model : Model
    batch : int
    new, held : int
        Tokens per sequence that are computed, and that are in the cache already.
    fused : bool
        Whether the maps stay inside the attention kernel.
    itemsize : int
        Bytes per element. Default 2.

    Returns
    -------
    list of Operator
    """
    check_model("model", model)
    batch, new, held = as_size("batch", batch), as_size("new", new), as_size("held", held, at_least=0)
    itemsize = as_size("itemsize", itemsize)
    check_bool("fused", fused)
    s = model.decode_structure if held else model.structure
    tokens, h, i = batch * new, model.hidden_size, model.intermediate_size
    layer: list[tuple[str, int, int]] = []  # name, operations, elements moved

    def linear(name: str, product: Product, rows: int) -> None:
        weight, bias = product.macs, product.parameters - product.macs
        moved = weight + bias + rows * product.count * (product.d_in + product.d_out)
        layer.append((name, 2 * rows * product.macs, moved))

    def norm() -> None:
        # square, sum, root, division, gain: 7 operations per element are LLM-Viewer's figure, which is kept here
        layer.append(("norm", 7 * tokens * h, tokens * 2 * h))

    norm()
    for product in s.products:
        if product.name not in ("w_p", "w_g", "w_o"):
            linear("projections", product, batch * (held + new) if product.held else tokens)
    turned = tokens * (s.n_q + s.n_k) * s.d_k
    layer.append(("rope", 3 * turned, 2 * turned))  # six operations per pair of features
    layer.extend(attention(s, batch, new, held, fused=fused))
    width = next(product.d_in for product in s.products if product.name == "w_o")
    for product in s.products:
        if product.name == "w_p":
            linear("decoder", product, tokens)
            if s.decoder_residual:  # values += e copies of the latent contexts
                layer.append(("decoder", tokens * width, tokens * (s.n_q * s.d_v + 2 * width)))
    for product in s.products:
        if product.name == "w_g":
            linear("gate", product, tokens)
            layer.append(("gate", 5 * tokens * width, 3 * tokens * width))
    for product in s.products:
        if product.name == "w_o":
            linear("projections", product, tokens)
    layer.append(("residual", tokens * h, 3 * tokens * h))
    norm()
    layer.append(("residual", tokens * h, 3 * tokens * h))
    found = [Operator(name, model.n_layers * ops, model.n_layers * moved * itemsize) for name, ops, moved in layer]

    layer.clear()
    for d_in, d_out in ((h, i), (h, i), (i, h)):
        linear("mlp", Product("mlp", d_in, d_out), tokens)
    layer.append(("mlp", 5 * tokens * i, 3 * tokens * i))
    n = model.mlp_layers
    if n:
        found += [Operator(name, n * ops, n * moved * itemsize) for name, ops, moved in layer]
    if model.experts is not None:
        n = model.n_layers - n
        found += [Operator("mlp", n * ops, n * moved * itemsize) for ops, moved in model.experts.operators(h, tokens)]
    found.append(Operator("embedding", 0, 2 * tokens * h * itemsize))
    last = batch  # one position of each sequence
    found.append(Operator("norm", 7 * last * h, 2 * last * h * itemsize))
    moved = model.head_macs + last * (h + model.vocab_size)
    found.append(Operator("head", 2 * last * model.head_macs, moved * itemsize))
    return found


def attention(s: Structure, batch: int, new: int, held: int, *, fused: bool) -> list[tuple[str, int, int]]:
    """Operators of the attention core, each as (name, operations, elements moved)."""
    check_structure("s", s)
    batch, new, held = as_size("batch", batch), as_size("new", new), as_size("held", held, at_least=0)
    check_bool("fused", fused)
    keys = held + new
    queries, keys_moved, values_moved = (
        batch * new * s.n_q * s.d_k,
        batch * keys * s.n_k * s.d_k,
        batch * keys * s.n_v * s.d_v,
    )
    context = batch * new * s.n_q * s.d_v
    computed = batch * s.n_q * pairs(new, held, causal_saving=fused)
    if fused:
        operations = computed * (2 * s.d_k + 5 + 2 * s.d_v)
        return [("attention", operations, queries + keys_moved + values_moved + context)]
    return [
        ("attention", 2 * computed * s.d_k, queries + keys_moved + computed),
        ("attention", 5 * computed, 2 * computed),
        ("attention", 2 * computed * s.d_v, computed + values_moved + context),
    ]
