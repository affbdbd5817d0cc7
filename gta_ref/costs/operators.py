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
    tokens, h, i = batch * new, model.hidden_size, model.intermediate_size
    found: list[Operator] = []

    def add(layer: list[tuple[str, int, int]], n_layers: int) -> None:
        found.extend(Operator(name, n_layers * ops, n_layers * moved * itemsize) for name, ops, moved in layer)

    for group in model.groups:
        structure = group.decode_structure if held else group.structure
        add(_around_attention(structure, batch, new, held, fused), group.n_layers)
    if model.mlp_layers:
        mlp = [_linear("mlp", Product("mlp", d_in, d_out), tokens) for d_in, d_out in ((h, i), (h, i), (i, h))]
        add([*mlp, ("mlp", 5 * tokens * i, 3 * tokens * i)], model.mlp_layers)
    if model.experts is not None:
        mixture = [("mlp", ops, moved) for ops, moved in model.experts.operators(h, tokens)]
        add(mixture, model.n_layers - model.mlp_layers)
    last = batch  # one position of each sequence
    head = 2 * last * model.head_macs, model.head_macs + last * (h + model.vocab_size)
    add([("embedding", 0, 2 * tokens * h), ("norm", 7 * last * h, 2 * last * h), ("head", *head)], 1)
    return found


def _linear(name: str, product: Product, rows: int) -> tuple[str, int, int]:
    moved = product.parameters + rows * product.count * (product.d_in + product.d_out)
    return name, 2 * rows * product.macs, moved


def _around_attention(s: Structure, batch: int, new: int, held: int, fused: bool) -> list[tuple[str, int, int]]:
    """Operators of a layer without its MLP, each as (name, operations, elements moved)."""
    tokens, h = batch * new, s.hidden_size
    # square, sum, root, division, gain: 7 operations per element are LLM-Viewer's figure, which is kept here
    norm = "norm", 7 * tokens * h, tokens * 2 * h
    residual = "residual", tokens * h, 3 * tokens * h
    layer = [norm]
    for product in s.products:
        if product.name not in ("w_p", "w_g", "w_o"):
            layer.append(_linear("projections", product, batch * (held + new) if product.held else tokens))
    turned = tokens * (s.n_q + s.n_k) * s.d_k
    layer.append(("rope", 3 * turned, 2 * turned))  # six operations per pair of features
    layer.extend(attention(s, batch, new, held, fused=fused))
    width = next(product.d_in for product in s.products if product.name == "w_o")
    for product in s.products:
        if product.name == "w_p":
            layer.append(_linear("decoder", product, tokens))
            if s.decoder_residual:  # values += e copies of the latent contexts
                layer.append(("decoder", tokens * width, tokens * (s.n_q * s.d_v + 2 * width)))
    for product in s.products:
        if product.name == "w_g":
            layer.append(_linear("gate", product, tokens))
            layer.append(("gate", 5 * tokens * width, 3 * tokens * width))
    for product in s.products:
        if product.name == "w_o":
            layer.append(_linear("projections", product, tokens))
    return [*layer, residual, norm, residual]  # the second norm and residual are the MLP's


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
