"""Multiply–accumulates of a prefill, a decoding step and a training step; each counts as two operations (FLOPs)."""

from __future__ import annotations

from gta_ref.costs.model import Model, check_model, check_structure
from gta_ref.errors import as_size, check_bool
from gta_ref.mechanisms.structure import Structure


def pairs(new: int, held: int = 0, *, causal_saving: bool = True) -> int:
    """Number of pairs of a query and a key whose product is computed for `new` tokens that follow `held` ones.

    With the causal saving, only pairs whose key the query may see are computed: new·held + new (new + 1) / 2.
    Without it all are, new·(held + new), as in an implementation that computes whole maps and then masks them.
    """
    new, held = as_size("new", new, at_least=0), as_size("held", held, at_least=0)
    check_bool("causal_saving", causal_saving)
    return new * held + new * (new + 1) // 2 if causal_saving else new * (held + new)


def attention_layer(structure: Structure, new: int, held: int = 0, *, causal_saving: bool = True) -> dict[str, int]:
    """Multiply–accumulates of one attention layer for `new` tokens of a sequence that follow `held` ones in the cache.

    Returns
    -------
    macs : dict
        ``attention`` (the core's two products) and ``linear`` (everything else).
    """
    check_structure("structure", structure)
    new, held = as_size("new", new, at_least=0), as_size("held", held, at_least=0)
    return {
        "attention": structure.attention_macs * pairs(new, held, causal_saving=causal_saving),
        "linear": (structure.linear_macs - structure.held_macs) * new + structure.held_macs * (held + new),
    }


def forward_macs(
    model: Model, batch: int, new: int, held: int = 0, *, causal_saving: bool = True, all_logits: bool = False
) -> dict[str, int]:
    """Multiply–accumulates of a forward pass: a prefill (held = 0) or a decoding step.

    Parameters
    ----------
    model : Model
    batch : int
        Number of sequences.
    new : int
        Tokens per sequence that the pass computes.
    held : int
        Tokens per sequence that are in the cache already. Default 0. From 1 on, its groups' `decode_structure` is used.
    causal_saving : bool
        As in :func:`pairs`. Default True.
    all_logits : bool
        True: the head runs for every new token, as in training. False, the default: for the last one only.

    Returns
    -------
    macs : dict
        Keys: attention, linear (of the attention layers), mlp, head, total.
    """
    check_model("model", model)
    batch, new, held = as_size("batch", batch), as_size("new", new), as_size("held", held, at_least=0)
    check_bool("all_logits", all_logits)
    macs = {"attention": 0, "linear": 0}
    for group in model.groups:
        structure = group.decode_structure if held else group.structure
        for name, count in attention_layer(structure, new, held, causal_saving=causal_saving).items():
            macs[name] += batch * group.n_layers * count
    macs["mlp"] = batch * new * model.all_mlp_macs
    macs["head"] = batch * (new if all_logits else 1) * model.head_macs
    return {**macs, "total": sum(macs.values())}


def training_macs(
    model: Model, batch: int, length: int, *, fused: bool = True, causal_saving: bool = True
) -> dict[str, int]:
    """Multiply–accumulates of a training step, forward and backward.

    Every linear map runs three times: y = x W, dx = dy Wᵀ, dW = xᵀ dy. The attention core's backward has four
    products, dA = dZ Vᵀ, dV = Aᵀ dZ, dQ = dS K, dK = dSᵀ Q; a fused kernel recomputes S = Q Kᵀ.

    Returns
    -------
    macs : dict
        Keys: attention, linear, mlp, head, total.
    """
    check_model("model", model)
    batch, length = as_size("batch", batch), as_size("length", length)
    check_bool("fused", fused)
    forward = forward_macs(model, batch, length, causal_saving=causal_saving, all_logits=True)
    macs = {name: 3 * forward[name] for name in ("attention", "linear", "mlp", "head")}
    if fused:
        again = sum(n * layer.n_q * layer.d_k for layer, _, n in model.groups)
        macs["attention"] += batch * again * pairs(length, causal_saving=causal_saving)
    return {**macs, "total": sum(macs.values())}
