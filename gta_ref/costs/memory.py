"""Memory of the cache, of the weights, and of what training keeps for the backward pass; all figures are exact."""

from __future__ import annotations

from typing import Any

from gta_ref.costs.model import Model, check_model, check_structure
from gta_ref.errors import as_size, check_bool
from gta_ref.mechanisms.structure import Structure
from gta_ref.ops.arrays import as_dtype


def cache_bytes(model: Model, batch: int, length: int, dtype: Any = "bfloat16") -> int:
    """Bytes of all layers' caches for `batch` sequences of `length` tokens."""
    check_model("model", model)
    tokens = as_size("batch", batch) * as_size("length", length, at_least=0)
    elements = sum(group.n_layers * group.structure.cache_elements for group in model.groups)
    return tokens * elements * as_dtype(dtype).itemsize


def weight_bytes(model: Model, dtype: Any = "bfloat16") -> int:
    """Bytes of all parameters."""
    check_model("model", model)
    return model.parameters * as_dtype(dtype).itemsize


def attention_activations(structure: Structure, batch: int, length: int, *, fused: bool = True) -> int:
    """Elements that one attention layer keeps between forward and backward; its input is counted once.

    Parameters
    ----------
    structure : Structure
    batch, length : int
    fused : bool
        True, the default: the core keeps q, k, v, z and lse. False: q, k, v and n_q maps of N² elements each.

    Returns
    -------
    elements : int
        For the whole batch, without the tables of RoPE's cos and sin.
    """
    check_structure("structure", structure)
    batch, length = as_size("batch", batch), as_size("length", length, at_least=0)
    check_bool("fused", fused)
    s = structure
    kept = sum(s.kept.values())
    if not fused:
        return batch * length * (kept + s.n_q * length)
    z = 0 if "z" in s.kept else s.n_q * s.d_v  # one array, even if the core and the decoder both keep it
    return batch * length * (kept + z + s.n_q)


def training_activations(model: Model, batch: int, length: int, *, fused: bool = True) -> int:
    """Elements that a whole model keeps between forward and backward, including the logits.

    A block keeps the inputs of its two RMSNorms and their 1/r, what its attention layer keeps, and the MLP's input,
    both projections and their product; :meth:`gta_ref.costs.experts.Experts.kept` says what a mixture of experts keeps.
    """
    check_model("model", model)
    batch, length = as_size("batch", batch), as_size("length", length, at_least=0)
    attention = sum(n * attention_activations(layer, batch, length, fused=fused) for layer, _, n in model.groups)
    norms = model.n_layers * 2 * (model.hidden_size + 1)
    mlps = model.mlp_layers * (model.hidden_size + 3 * model.intermediate_size)
    if model.experts is not None:
        mlps += (model.n_layers - model.mlp_layers) * model.experts.kept(model.hidden_size)
    end = 2 * model.hidden_size + 1 + model.vocab_size  # the last RMSNorm, the head's input, the logits
    tokens = batch * length
    return attention + tokens * (norms + mlps + end)
