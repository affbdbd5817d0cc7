"""The numbers of a case: its inputs, and every stage, output and gradient as the reference computes them.

Inputs are drawn, rounded to the dtype of the case, and then widened to float64. The float64 results are thus the truth
for an implementation that is given the rounded inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.lm import model as lm
from gta_ref.ops import as_dtype, rope_angles
from gta_ref.ops.cross_entropy import IGNORE
from gta_ref.verify.cases import Case

Arrays = dict[str, np.ndarray]
Compute = Callable[[Mapping[str, np.ndarray]], Arrays]

# A relative change of RoPE's base that moves its frequencies by a few roundings of float32: right code that computes
# angles in float32 differs by that much, which far positions multiply
NEARBY_THETA = 2.0**-20


@dataclass(frozen=True)
class Problem:
    """A case with its random inputs.

    Attributes
    ----------
    case : Case
    dtype : str
    inputs : dict of str to array
        What an implementation is given, in the dtype of the case (positions, ids, targets and bounds are int64):
        inputs, parameters and cotangents (d_z, d_lse, d_out).
    compute : function
        From the inputs in any dtype to every stage, output and gradient, in the order of computation.
    required : tuple of str
        The names that an implementation must return; the others help to find where it is wrong.
    nearby : tuple of functions
        Computations as `compute` that differ from it by what right code may differ: in float32 angles of RoPE.
    seed, attempt : int
        Those of :func:`draw`.
    """

    case: Case
    dtype: str
    inputs: Arrays
    compute: Compute
    required: tuple[str, ...]
    nearby: tuple[Compute, ...] = ()
    seed: int = 0
    attempt: int = 0


def draw(case: Case, dtype: str, seed: int = 0, attempt: int = 0) -> Problem:
    """Draw a case's inputs in `dtype`: seed 0 stands for the standard inputs, every other seed for others.

    `attempt` numbers the inputs of one seed, because the first ones may not be fit to detect a wrong result.
    """
    rng = np.random.default_rng([case.seed, seed, attempt] if seed or attempt else case.seed)
    problem = {"attention": _attention, "layer": _layer, "lm": _lm}[case.level](case, dtype, rng)
    return replace(problem, seed=seed, attempt=attempt)


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


def _attention(case: Case, dtype: str, rng: np.random.Generator) -> Problem:
    settings, s = case.settings, case.settings["sizes"]
    low = as_dtype(dtype)
    mask = mask_of(settings)
    q_start, k_start, k_stop = mask.resolve(s["B"], s["N_q"], s["N_k"])
    q = settings.get("logits", 1.0) * rng.standard_normal((s["B"], s["n_q"], s["N_q"], s["d_k"]))
    k = rng.standard_normal((s["B"], s["n_k"], s["N_k"], s["d_k"]))
    v = rng.standard_normal((s["B"], s["n_v"], s["N_k"], s["d_v"]))
    if "growth" in settings:
        k *= np.geomspace(1.0, settings["growth"], s["N_k"])[:, None]
    if "whole" in settings:
        q, k = settings["whole"] * np.rint(q), np.rint(k)
    if "shift" in settings:
        n = settings["shift"]["features"]
        q[..., :n], k[..., :n] = settings["shift"]["q"], settings["shift"]["k"]
    if "sink" in settings:
        k[:, :, 0, 0] = settings["sink"]
    if settings.get("equal_heads"):
        k[:], v[:] = k[:, :1], v[:, :1]
    if settings.get("poison"):
        slot = np.arange(s["N_k"])
        unused = (slot < k_start[:, None]) | (slot >= k_stop[:, None])  # (B, N_k)
        for x in (k, v):
            x.swapaxes(1, 2)[unused] = np.nan
    inputs = {
        **{name: x.astype(low) for name, x in (("q", q), ("k", k), ("v", v))},
        "q_start": np.array(q_start),
        "k_start": np.array(k_start),
        "k_stop": np.array(k_stop),
        "d_z": rng.standard_normal((s["B"], s["n_q"], s["N_q"], s["d_v"])).astype(low),
    }
    if settings.get("dlse"):
        # lse has at least the precision of float32, and so has its cotangent
        inputs["d_lse"] = rng.standard_normal((s["B"], s["n_q"], s["N_q"])).astype(np.promote_types(low, np.float32))

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


def _layer(case: Case, dtype: str, rng: np.random.Generator) -> Problem:
    settings = case.settings
    module, config, mask = mechanisms.load(settings["mechanism"]), config_of(settings), mask_of(settings)
    low = as_dtype(dtype)
    batch, length = settings["batch"], settings["length"]
    params = _params(module.param_shapes(config), rng, low)
    positions, k_start, k_stop = _bounds(settings)
    inputs = {
        "x": (settings.get("x_scale", 1.0) * rng.standard_normal((batch, length, config.hidden_size))).astype(low),
        "positions": positions,
        "k_start": k_start,
        "k_stop": k_stop,
        **params,
    }
    if "chunks" in settings:
        return Problem(case, dtype, inputs, _decode(module, config, settings, params), ("out",))
    inputs["d_out"] = rng.standard_normal((batch, length, config.hidden_size)).astype(low)
    way = {"absorb": settings["absorb"]} if "absorb" in settings else {}

    def compute(a: Mapping[str, np.ndarray], config: Any = config) -> Arrays:
        stages: Arrays = _angles(config, a["positions"])
        own = {name: a[name] for name in params}
        options = {"positions": positions, "mask": mask, "engine": "reference", **way}
        _, saved = module.forward(own, a["x"], config, trace=stages, **options)
        backward: Arrays = {}
        d_x, grads = module.backward(a["d_out"], saved, trace=backward)
        del backward["d_out"]  # an input
        return {**stages, **backward, **{f"d_{name}": grad for name, grad in grads.items()}, "d_x": d_x}

    nearby: tuple[Compute, ...] = ()
    if "first_position" in settings:
        others = [replace(config, rope_theta=config.rope_theta * (1 + d)) for d in (NEARBY_THETA, -NEARBY_THETA)]
        nearby = tuple(partial(compute, config=other) for other in others)
    return Problem(case, dtype, inputs, compute, ("out", *(f"d_{name}" for name in params), "d_x"), nearby)


def _bounds(settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (B, N), k_start and k_stop (B,) of whole sequences."""
    batch, length = settings["batch"], settings["length"]
    mask = mask_of(settings)
    positions = np.broadcast_to(mask.positions(batch, length, length), (batch, length))
    _, k_start, k_stop = mask.resolve(batch, length, length)
    return positions + np.int64(settings.get("first_position", 0)), np.array(k_start), np.array(k_stop)


def _angles(config: Any, positions: np.ndarray) -> Arrays:
    """The stages cos and sin, (B, N, d/2) in float64; none without RoPE."""
    width = getattr(config, "rope_dim", None) or getattr(config, "head_dim", 0)
    if config.rope_pairing == "none" or not width:
        return {}
    own = (getattr(config, "rope_frequencies", None), getattr(config, "rope_magnitude", 1.0))  # GTA has neither
    cos, sin = rope_angles(np.asarray(positions), width, config.rope_theta, np.float64, *own)
    return {"cos": cos, "sin": sin}


def _decode(module: Any, config: Any, settings: Mapping[str, Any], params: Arrays) -> Compute:
    mask = settings.get("mask", {})
    way = {"absorb": settings["absorb"]} if "absorb" in settings else {}

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        own = {name: a[name] for name in params}
        batch, length = a["x"].shape[:2]
        cache = KVCache(module.structure(config).cached, batch, length, a["x"].dtype, mask.get("k_start"))
        cache.arrays = {name: x.view(type(a["x"])) for name, x in cache.arrays.items()}
        outs, start = [], 0
        for n in settings["chunks"]:
            outs.append(module.decode(own, a["x"][:, start : start + n], cache, config, engine="reference", **way))
            start += n
        held = {f"cache_{name}": np.array(x) for name, x in cache.held().items()}
        return {**_angles(config, a["positions"]), **held, "out": np.concatenate(outs, axis=1)}

    return compute


def _lm(case: Case, dtype: str, rng: np.random.Generator) -> Problem:
    config, settings, mask = model_of(case.settings), case.settings, mask_of(case.settings)
    low = as_dtype(dtype)
    shape = (settings["batch"], settings["length"])
    params = _params(lm.param_shapes(config), rng, low)
    if "x_scale" in settings:
        params["embed"] = (settings["x_scale"] * params["embed"].astype(np.float64)).astype(low)
    ids = rng.integers(0, config.vocab_size, shape)
    inputs = {"ids": ids, **params}
    if "mask" in settings:
        inputs["positions"], inputs["k_start"], inputs["k_stop"] = _bounds(settings)
    if settings.get("targets"):
        # not the ids moved by one, so that moving them once more shows
        counted = (rng.random(shape) < 0.6) & (np.arange(shape[1]) >= mask.resolve(*shape, shape[1])[1][:, None])
        inputs["targets"] = np.where(counted, rng.integers(0, config.vocab_size, shape), IGNORE)

    def compute(a: Mapping[str, np.ndarray]) -> Arrays:
        own = {name: a[name] for name in params}
        if "chunks" in settings:
            return {"logits": _lm_decode(own, ids, config, settings)}
        logits, _ = lm.forward(own, ids, config, mask=mask, engine="reference", need_saved=False)
        loss, saved = lm.loss_forward(own, ids, config, targets=a.get("targets"), mask=mask, engine="reference")
        grads = lm.loss_backward(saved)
        backward = {f"d_{name}": grad for name, grad in reversed(grads.items())}  # from the head to the embedding
        return {"logits": logits, "loss": np.reshape(loss, 1), **backward}

    results = ("logits",) if "chunks" in settings else ("logits", "loss", *(f"d_{name}" for name in params))
    return Problem(case, dtype, inputs, compute, results)


def _lm_decode(params: Arrays, ids: np.ndarray, config: lm.Config, settings: Mapping[str, Any]) -> np.ndarray:
    """The logits of all tokens, computed in chunks with one cache per layer."""
    kind = params["embed"]
    caches = lm.new_caches(config, ids.shape[0], ids.shape[1], kind.dtype, settings.get("mask", {}).get("k_start"))
    for cache in caches:
        cache.arrays = {name: x.view(type(kind)) for name, x in cache.arrays.items()}
    logits, start = [], 0
    for n in settings["chunks"]:
        logits.append(lm.decode(params, ids[:, start : start + n], caches, config, engine="reference"))
        start += n
    return np.concatenate(logits, axis=1)
