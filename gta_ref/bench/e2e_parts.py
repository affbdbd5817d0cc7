"""The time of a pass, part by part: as measured, as the cost model predicts it, and why the two differ.

The parts are the operators of the cost model, except that the activations of the MLP and of the gate are separate from
their products. The parts "copies" (merging heads, writing tokens into the cache) and "between" (Python, and everything
outside the timed functions) have no operator, so that the model predicts no time for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gta_ref import ops
from gta_ref.bench.machine import seconds
from gta_ref.cache import KVCache
from gta_ref.costs.hardware import Hardware
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import time as roofline
from gta_ref.lm import block, compiled
from gta_ref.lm import model as lm
from gta_ref.mechanisms import gta, headwise, projections
from gta_ref.ops.arrays import Params
from gta_ref.weights.config_costs import model_costs

PRODUCTS = ("projections", "gate", "decoder", "mlp", "head")
ELEMENTWISE = ("norm", "rope", "gate activation", "swiglu", "residual", "embedding")
PARTS = (*PRODUCTS, "attention", *ELEMENTWISE, "copies", "between")
ONCE = ("embedding", "head")  # all other parts belong to the layers
REPLAYED = 4  # number of layers whose products are repeated alone; their weights are larger than any cache

# the functions that a pass calls, where they are looked up, and the part that their time belongs to
_TIMED: tuple[tuple[Any, str, str], ...] = (
    (lm, "embedding_forward", "embedding"),
    (lm, "linear_forward", "head"),
    (block, "linear_forward", "mlp"),
    (block, "add", "residual"),
    (ops, "rmsnorm_forward", "norm"),
    (ops, "swiglu_forward", "swiglu"),
    (compiled, "rmsnorm_forward", "norm"),
    (compiled, "swiglu_forward", "swiglu"),
    *(
        (module, name, part)
        for module in (gta, projections)
        for name, part in (
            ("linear_forward", "projections"),
            ("rope_tables", "rope"),
            ("rope_forward", "rope"),
            ("gate_forward", "gate activation"),
        )
    ),
    (projections, "split_heads", "copies"),
    (headwise, "merge_heads", "copies"),
    (headwise, "attend", "attention"),
    (gta, "attend", "attention"),
    (gta, "decoder_forward", "decoder"),
    (KVCache, "append", "copies"),
)


@contextmanager
def timed_parts(params: Params) -> Iterator[dict[str, float]]:
    """Add up the seconds of every part while the block runs the model with these parameters.

    Each timed function is replaced, where the model looks it up, by one that reads the clock, calls it, and reads the
    clock again.
    """
    found = dict.fromkeys(PARTS, 0.0)
    of_gate = {id(x) for name, x in params.items() if name.endswith(".w_g")}

    def timed(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            taken = time.perf_counter() - start
            found["gate" if part == "projections" and id(args[1]) in of_gate else part] += taken
            return result

        return timed_call

    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _TIMED]
    try:
        for owner, name, part in _TIMED:
            setattr(owner, name, timed(getattr(owner, name), part))
        yield found
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def predicted(config: lm.Config, batch: int, new: int, held: int, hardware: Hardware) -> dict[str, float]:
    """Predict the seconds of every part by the roofline, for float32, fused attention and all layers of `config`.

    Parameters
    ----------
    config : gta_ref.lm.model.Config
        Of GTA, or of a mechanism whose values are cached head by head.
    batch, new, held : int
        Number of sequences, and for each of them the tokens that are computed and those that the cache holds before.
    hardware : Hardware

    Returns
    -------
    parts : dict of str to float
        Σ over a part's operators of max(operations / peak, bytes / bandwidth).
    """
    model = model_costs(config.mechanism, config)
    width = next(product.d_in for product in model.structure.products if product.name == "w_o")
    each = 5 * batch * new * config.n_layers  # an activation has 5 operations per element, fewer than any product
    activations = {("mlp", each * config.intermediate_size): "swiglu", ("gate", each * width): "gate activation"}
    found = dict.fromkeys(PARTS, 0.0)
    for operator in operators(model, batch, new, held, fused=True, itemsize=4):
        part = activations.get((operator.name, operator.operations), operator.name)
        found[part] += roofline([operator], hardware).seconds
    return found


def bare_products(params: Params, config: lm.Config, batch: int, new: int) -> tuple[float, float]:
    """Time the matrix products of a pass alone, with NumPy on the same weights in the order of the layers.

    Returns
    -------
    layer, head : float
        Seconds of all products of one layer, and of the head for one position of each sequence.
    """
    layers, rows = min(config.n_layers, REPLAYED), batch * new
    inputs: dict[tuple[int, ...], np.ndarray] = {}

    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        w = params[name]
        shape = (*w.shape[:-2], rows, w.shape[-2])  # GTA's decoder has a matrix for every map
        if shape not in inputs:
            inputs[shape] = np.random.default_rng(0).standard_normal(shape, np.float32)
        return inputs[shape], w

    names = [f"attention.{product.name}" for product in config.module.structure(config.attention).products]
    names += ["mlp.w_gate", "mlp.w_up", "mlp.w_down"]
    pairs = [pair(f"layers.{i}.{name}") for i in range(layers) for name in names]
    last = np.ones((batch, config.hidden_size), np.float32)
    head = params["embed"].T if config.tied else params["head"]

    def all_layers() -> None:
        for x, w in pairs:
            np.matmul(x, w)

    return seconds(all_layers) / layers, seconds(lambda: np.matmul(last, head))


def to_depth(parts: Mapping[str, float], ran: int, depth: int) -> dict[str, float]:
    """Extrapolate the parts of a pass through `ran` layers to a pass through `depth` layers."""
    return {name: taken * (1 if name in ONCE else depth / ran) for name, taken in parts.items()}


def difference(measured: Mapping[str, float], expected: Mapping[str, float], bare: float) -> dict[str, float]:
    """Divide the difference between measured and predicted seconds into its causes.

    Parameters
    ----------
    measured, expected : mapping of part to seconds
        Both for the same number of layers.
    bare : float
        Seconds of the same matrix products alone.

    Returns
    -------
    causes : dict of str to float
        blas (products alone minus their prediction), elementwise, attention, copies; and two causes that remain
        unexplained: around (products inside the model minus the same products alone) and between. They add up to the
        whole difference.
    """

    def over(names: tuple[str, ...]) -> float:
        return sum(measured[name] - expected[name] for name in names)

    ours = sum(measured[name] for name in PRODUCTS)
    return {
        "blas": bare - sum(expected[name] for name in PRODUCTS),
        "elementwise": over(ELEMENTWISE),
        "attention": over(("attention",)),
        "copies": over(("copies",)),
        "around": ours - bare,
        "between": over(("between",)),
    }
