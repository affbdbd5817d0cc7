"""The two models of ``gta-ref bench e2e``: GTA-1B and GQA-1B with random weights and as many layers as fit in memory.

The models share the embedding and, layer by layer, the MLP, which have the same sizes in both. A pass reads gigabytes
of weights, so that nothing shared is left in the CPU's caches for the other model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.errors import as_int
from gta_ref.lm import model
from gta_ref.mechanisms import gqa, gta
from gta_ref.mechanisms.published import PUBLISHED
from gta_ref.ops import Array
from gta_ref.ops.arrays import Params

NAMES = tuple(PUBLISHED)
ASIDE = 2**30  # bytes set aside for measuring the ceilings, and for a prefill's arrays between its layers
CHECKED = 12, 8  # number of tokens in the check, and of those that enter the cache in the first step
CHECKED_LAYERS, CHECKED_VOCABULARY = 2, 1024
# a logit may be this many times as far from float64 as a plain forward in float32, plus this many roundings
TIMES_FORWARD, ROUNDINGS = 8, 8
FILL = 1024  # tokens that one call appends to a cache

Models = dict[str, tuple[model.Config, Params]]


@dataclass(frozen=True)
class Case:
    """One pass: a prefill of `length` tokens, or a decoding step of one token after `length` cached ones."""

    stage: str
    batch: int
    length: int

    @property
    def name(self) -> str:
        """The name of the case in tables."""
        return f"{self.stage}, B {self.batch}, N {self.length}"

    @property
    def new(self) -> int:
        """Tokens per sequence that are computed."""
        return 1 if self.stage == "decode" else self.length

    @property
    def held(self) -> int:
        """Tokens per sequence that the cache holds before the pass."""
        return self.length if self.stage == "decode" else 0


def configs(quick: bool) -> dict[str, model.Config]:
    """GTA-1B and GQA-1B; with `quick`, two very narrow models with the same parts."""
    if not quick:
        return {name: model.Config.preset(name) for name in NAMES}
    small: dict[str, Any] = {"hidden_size": 64, "n_heads": 4, "head_dim": 16}
    around: dict[str, Any] = {"vocab_size": 256, "n_layers": 2, "intermediate_size": 128}
    attention = {
        "gta-1b": gta.Config(**small, n_q=2, n_k=1, n_c=1, latent_dim=32, decoder_residual=True, bias=True),
        "gqa-1b": gqa.Config(**small, n_k=2),
    }
    return {name: model.Config(attention=attention[name], mechanism=PUBLISHED[name], **around) for name in NAMES}


def available_memory() -> int:
    """Bytes that are available without swapping; if the system does not tell, the size of the physical memory."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def weight_bytes(models: dict[str, model.Config], n_layers: int) -> int:
    """Bytes of all parameters in float32; those outside the attention layers are shared and count once."""
    found: dict[tuple[str, str], int] = {}
    for name, config in models.items():
        for parameter, shape in model.param_shapes(replace(config, n_layers=n_layers)).items():
            found[name if ".attention." in parameter else "", parameter] = 4 * int(np.prod(shape))
    return sum(found.values())


def cache_bytes(models: dict[str, model.Config], case: Case) -> int:
    """Bytes of one layer's caches in both models, with room for the token of the step; 0 for a prefill."""
    if case.stage == "prefill":
        return 0
    elements: int = sum(config.module.structure(config.attention).cache_elements for config in models.values())
    return 4 * case.batch * (case.held + 1) * elements


def plan(models: dict[str, model.Config], all_cases: Sequence[Case], memory: int, layers: int | None) -> list[int]:
    """Choose the number of layers for each case: as many as the models have, or fewer if their caches do not fit.

    Parameters
    ----------
    models : dict of str to Config
    all_cases : sequence of Case
    memory : int
        Bytes that may be used.
    layers : int or None
        Largest number of layers. None: as many as fit together with the smallest cache.

    Returns
    -------
    list of int
        One number for each case; 0 if not even the cache of one layer fits.

    Raises
    ------
    ValueError
        If the weights do not fit.
    """
    depth = min(config.n_layers for config in models.values())
    if layers is not None and as_int("layers", layers, at_least=1) > depth:
        raise ValueError(f"layers={layers} must be at most {depth}, as the models have")
    smallest = min((cache_bytes(models, case) for case in all_cases if case.stage == "decode"), default=0)
    one = weight_bytes(models, 2) - weight_bytes(models, 1)
    once = weight_bytes(models, 1) - one + ASIDE
    fits = (memory - once) // (one + smallest) if layers is None else (memory - once) // one
    if fits < (layers or 1):
        needed = once + (layers or 1) * one
        raise ValueError(
            f"memory={memory / 1e9:.1f} GB is too little: {layers or 1} layer(s) of weights need {needed / 1e9:.1f} GB"
        )
    found = min(depth, fits) if layers is None else layers
    left = memory - once - found * one
    return [min(found, left // cache) if (cache := cache_bytes(models, case)) else found for case in all_cases]


def build(models: dict[str, model.Config], n_layers: int, seed: int = 0) -> Models:
    """Random float32 parameters for n_layers layers: weights of variance 1/d_in, an embedding of variance 1/H.

    They are nearly those of the models' own `init`, but drawn in float32 and, outside the attention layers, shared.
    """
    rng = np.random.default_rng(seed)
    shared: dict[str, Array] = {}
    found: Models = {}
    for name, config in models.items():
        shallow = replace(config, n_layers=n_layers)
        params: dict[str, Array] = {}
        for parameter, shape in model.param_shapes(shallow).items():
            if parameter not in shared:
                params[parameter] = _random(rng, parameter, shape)
                if ".attention." not in parameter:
                    shared[parameter] = params[parameter]
            else:
                params[parameter] = shared[parameter]
        found[name] = shallow, params
    return found


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.zeros(shape, np.float32) if ".b_" in name else np.ones(shape, np.float32)
    x = rng.standard_normal(shape, np.float32)
    x *= np.float32(shape[-1 if name == "embed" else -2] ** -0.5)
    return x


def take(config: model.Config, params: Params, n_layers: int) -> tuple[model.Config, Params]:
    """The first n_layers of a model; the arrays are the same."""
    shallow = replace(config, n_layers=n_layers)
    return shallow, {name: params[name] for name in model.param_shapes(shallow)}


def prefill(params: Params, ids: Array, config: model.Config) -> Array:
    """Logits (B, 1, vocabulary) of the last token, which are the result of a prefill."""
    return model.forward(params, ids, config, need_saved=False, last=True)[0]


def filled_caches(config: model.Config, case: Case, seed: int = 0) -> list[KVCache]:
    """One cache per layer that holds case.held random tokens and has room for one more."""
    rng = np.random.default_rng(seed)
    caches = model.new_caches(config, case.batch, case.held + 1)
    shapes = {name: x.shape for name, x in caches[0].arrays.items()}
    tokens = {
        name: rng.standard_normal((batch, heads, min(FILL, case.held), width), np.float32)
        for name, (batch, heads, _, width) in shapes.items()
    }
    for cache in caches:
        while cache.length < case.held:
            n = min(FILL, case.held - cache.length)
            cache.append(**{name: x[:, :, :n] for name, x in tokens.items()})
    return caches


def check(config: model.Config, params: Params, seed: int = 0) -> float:
    """Compare prefill and decoding with a forward in float64, at full width but with few tokens, layers and words.

    Returns
    -------
    error : float
        The largest error of a logit, relative to the largest logit.

    Raises
    ------
    RuntimeError
        If the error is larger than rounding explains, or not finite.
    """
    config, params = take(config, params, min(CHECKED_LAYERS, config.n_layers))
    words = min(CHECKED_VOCABULARY, config.vocab_size)
    config, params = replace(config, vocab_size=words), {**params, "embed": params["embed"][:words]}
    length, first = CHECKED
    ids = np.random.default_rng(seed).integers(0, words, (2, length))
    exact, _ = model.forward({name: x.astype(np.float64) for name, x in params.items()}, ids, config, need_saved=False)
    plain, _ = model.forward(params, ids, config, engine="reference", need_saved=False)
    caches = model.new_caches(config, 2, length)
    chunks = [ids[:, :first], *np.split(ids[:, first:], length - first, axis=1)]
    decoded = np.concatenate([model.decode(params, chunk, caches, config) for chunk in chunks], axis=1)
    largest = float(np.abs(exact).max())
    allowed = TIMES_FORWARD * float(np.abs(plain - exact).max()) + ROUNDINGS * float(np.finfo(np.float32).eps) * largest
    errors = [
        float(np.abs(got - want).max())
        for got, want in ((decoded, exact), (prefill(params, ids, config), exact[:, -1:]))
    ]
    if not all(error <= allowed for error in errors):  # NaN is wrong as well
        raise RuntimeError(
            f"{config.mechanism}: logits differ from float64 by {max(errors):.1e}; rounding explains {allowed:.1e}"
        )
    return max(errors) / largest
