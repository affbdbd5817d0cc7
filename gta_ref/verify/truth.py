"""The numbers of a case: its inputs, and every stage, output and gradient as the reference computes them.

Inputs are drawn, rounded to the dtype of the case, and then widened to float64. The float64 results are thus the truth
for an implementation that is given the rounded inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.lm import model as lm
from gta_ref.ops import as_dtype, rope_angles
from gta_ref.verify.cases import Case

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A case with its random inputs.

    Attributes
    ----------
    case : Case
    dtype : str
    inputs : dict of str to array
        What an implementation is given, in the dtype of the case (positions, ids and bounds are int64): inputs,
        parameters and cotangents (d_z, d_lse, d_out, d_logits).
    compute : function
        From the inputs in any dtype to every stage, output and gradient, in the order of computation.
    required : tuple of str
        The names that an implementation must return; the others help to find where it is wrong.
    """

    case: Case
    dtype: str
    inputs: Arrays
    compute: Callable[[Mapping[str, np.ndarray]], Arrays]
    required: tuple[str, ...]


def draw(case: Case, dtype: str) -> Problem:
    """Draw a case's inputs in `dtype`."""
    return {"attention": _attention, "layer": _layer, "lm": _lm}[case.level](case, dtype)


def wide(inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The inputs in float64; integers stay unchanged."""
    return {name: x if x.dtype.kind in "iu" else x.astype(np.float64) for name, x in inputs.items()}


def mask_of(settings: Mapping[str, Any]) -> Mask:
    """The case's mask."""
    return Mask(**settings.get("mask", {}))


def config_of(settings: Mapping[str, Any]) -> Any:
    """The mechanism's Config."""
    return mechanisms.load(settings["mechanism"]).Config(**settings["config"])


def model_of(settings: Mapping[str, Any]) -> lm.Config:
    """The language model's Config."""
    return lm.Config(attention=config_of(settings), mechanism=settings["mechanism"], **settings["model"])


def _attention(case: Case, dtype: str) -> Problem:
    settings, s = case.settings, case.settings["sizes"]
    rng, low = np.random.default_rng(case.seed), as_dtype(dtype)
    mask = mask_of(settings)
    q_start, k_start, k_stop = mask.resolve(s["B"], s["N_q"], s["N_k"])

    def normal(*shape: int, factor: float = 1.0) -> np.ndarray:
        return (factor * rng.standard_normal(shape)).astype(low)

    inputs = {
        "q": normal(s["B"], s["n_q"], s["N_q"], s["d_k"], factor=settings.get("logits", 1.0)),
        "k": normal(s["B"], s["n_k"], s["N_k"], s["d_k"]),
        "v": normal(s["B"], s["n_v"], s["N_k"], s["d_v"]),
        "q_start": np.array(q_start),
        "k_start": np.array(k_start),
        "k_stop": np.array(k_stop),
        "d_z": normal(s["B"], s["n_q"], s["N_q"], s["d_v"]),
    }
    if settings.get("dlse"):
        # lse has at least the precision of float32, and so has its cotangent
        inputs["d_lse"] = rng.standard_normal((s["B"], s["n_q"], s["N_q"])).astype(np.promote_types(low, np.float32))
    if settings.get("poison"):
        slot = np.arange(s["N_k"])
        unused = (slot < k_start[:, None]) | (slot >= k_stop[:, None])  # (B, N_k)
        for name in "kv":
            inputs[name].swapaxes(1, 2)[unused] = np.nan

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        stages: Arrays = {}
        z, lse, saved = attention_forward(
            a["q"], a["k"], a["v"], mask=mask, scale=settings.get("scale"), engine="reference", trace=stages
        )
        stages |= {"z": z, "lse": lse}
        d_q, d_k, d_v = attention_backward(a["d_z"], saved, dlse=a.get("d_lse"), trace=stages)
        return {**stages, "d_q": d_q, "d_k": d_k, "d_v": d_v}

    return Problem(case, dtype, inputs, compute, ("z", "d_q", "d_k", "d_v"))


def _params(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator, low: np.dtype) -> Arrays:
    """Random weights of variance 1/d_in; biases and gains are random too, since 0 and 1 would hide a missing one."""
    params = {}
    for name, shape in shapes.items():
        letter = name.rpartition(".")[2]
        x = rng.standard_normal(shape)
        if letter == "embed":
            params[name] = x
        elif "norm" in letter:
            params[name] = 1 + 0.3 * x
        elif len(shape) == 1:
            params[name] = 0.5 * x
        else:
            params[name] = x * shape[-2] ** -0.5
    return {name: p.astype(low) for name, p in params.items()}


def _layer(case: Case, dtype: str) -> Problem:
    settings = case.settings
    module, config, mask = mechanisms.load(settings["mechanism"]), config_of(settings), mask_of(settings)
    rng, low = np.random.default_rng(case.seed), as_dtype(dtype)
    batch, length = settings["batch"], settings["length"]
    params = _params(module.param_shapes(config), rng, low)
    positions = np.broadcast_to(mask.positions(batch, length, length), (batch, length))
    _, k_start, k_stop = mask.resolve(batch, length, length)
    inputs = {
        "x": rng.standard_normal((batch, length, config.hidden_size)).astype(low),
        "positions": np.array(positions, np.int64),
        "k_start": np.array(k_start),
        "k_stop": np.array(k_stop),
        **params,
    }
    width = getattr(config, "rope_dim", None) or getattr(config, "head_dim", 0)

    def angles() -> Arrays:
        if config.rope_pairing == "none" or not width:
            return {}
        own = (getattr(config, "rope_frequencies", None), getattr(config, "rope_magnitude", 1.0))  # GTA has neither
        cos, sin = rope_angles(positions, width, config.rope_theta, np.float64, *own)
        return {"cos": cos, "sin": sin}  # (B, N, d/2), float64

    if "chunks" in settings:
        return Problem(case, dtype, inputs, _decode(module, config, settings, params, angles), ("out",))
    inputs["d_out"] = rng.standard_normal((batch, length, config.hidden_size)).astype(low)

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        stages: Arrays = angles()
        own = {name: a[name] for name in params}
        _, saved = module.forward(own, a["x"], config, mask=mask, engine="reference", trace=stages)
        backward: Arrays = {}
        d_x, grads = module.backward(a["d_out"], saved, trace=backward)
        del backward["d_out"]  # an input
        return {**stages, **backward, **{f"d_{name}": grad for name, grad in grads.items()}, "d_x": d_x}

    return Problem(case, dtype, inputs, compute, ("out", *(f"d_{name}" for name in params), "d_x"))


def _decode(
    module: Any, config: Any, settings: Mapping[str, Any], params: Arrays, angles: Callable[[], Arrays]
) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    mask = settings.get("mask", {})

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        own = {name: a[name] for name in params}
        batch, length = a["x"].shape[:2]
        cache = KVCache(module.structure(config).cached, batch, length, a["x"].dtype, mask.get("k_start"))
        cache.arrays = {name: x.view(type(a["x"])) for name, x in cache.arrays.items()}
        outs, start = [], 0
        for n in settings["chunks"]:
            outs.append(module.decode(own, a["x"][:, start : start + n], cache, config, engine="reference"))
            start += n
        held = {f"cache_{name}": np.array(x) for name, x in cache.held().items()}
        return {**angles(), **held, "out": np.concatenate(outs, axis=1)}

    return compute


def _lm(case: Case, dtype: str) -> Problem:
    config = model_of(case.settings)
    rng, low = np.random.default_rng(case.seed), as_dtype(dtype)
    shape = (case.settings["batch"], case.settings["length"])
    params = _params(lm.param_shapes(config), rng, low)
    ids = rng.integers(0, config.vocab_size, shape)
    inputs = {"ids": ids, **params}

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        own = {name: a[name] for name in params}
        logits, _ = lm.forward(own, ids, config, engine="reference", need_saved=False)
        loss, saved = lm.loss_forward(own, ids, config, engine="reference")
        grads = lm.loss_backward(saved)
        return {"logits": logits, "loss": np.reshape(loss, 1), **{f"d_{name}": g for name, g in grads.items()}}

    return Problem(case, dtype, inputs, compute, ("logits", "loss", *(f"d_{name}" for name in params)))
