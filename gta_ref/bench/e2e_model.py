"""The two models of ``gta-ref bench e2e``: GTA-1B and GQA-1B with random weights, as deep as the memory allows.

Both share one embedding and one MLP a layer, whose sizes are the same: a pass goes through gigabytes of weights, so
that nothing of it is left in a cache of the CPU for the other model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.costs.model import PUBLISHED
from gta_ref.errors import as_int
from gta_ref.lm import model
from gta_ref.mechanisms import gqa, gta
from gta_ref.mechanisms.projections import Params
from gta_ref.ops import Array

NAMES = tuple(PUBLISHED)
ASIDE = 2**30  # bytes for what measures the ceilings, and for a prefill's arrays between its layers
CHECKED = 12, 8  # tokens of the check, of which the first go into the cache at once
CHECKED_LAYERS, CHECKED_VOCABULARY = 2, 1024
# a logit may be this many times as far from float64 as a plain forward in float32 is, and so many roundings besides
TIMES_FORWARD, ROUNDINGS = 8, 8
FILL = 1024  # tokens that are appended to a cache at once

Models = dict[str, tuple[model.Config, Params]]


@dataclass(frozen=True)
class Case:
    """One pass: a prefill of `length` tokens, or a decoding step of one token behind `length` held ones."""

    stage: str
    batch: int
    length: int

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.stage}, B {self.batch}, N {self.length}"

    @property
    def new(self) -> int:
        """Tokens of a sequence that are computed."""
        return 1 if self.stage == "decode" else self.length

    @property
    def held(self) -> int:
        """Tokens of a sequence in the cache before."""
        return self.length if self.stage == "decode" else 0


def configs(quick: bool) -> dict[str, model.Config]:
    """GTA-1B and GQA-1B; with `quick`, two models with all of their parts and next to no width."""
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
    """Bytes that can be had without swapping; where the system does not say, all that is built in."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def weight_bytes(models: dict[str, model.Config], n_layers: int) -> int:
    """Bytes of all parameters in float32; what is not attention is shared."""
    found: dict[tuple[str, str], int] = {}
    for name, config in models.items():
        for parameter, shape in model.param_shapes(replace(config, n_layers=n_layers)).items():
            found[name if ".attention." in parameter else "", parameter] = 4 * int(np.prod(shape))
    return sum(found.values())


def cache_bytes(models: dict[str, model.Config], case: Case) -> int:
    """Bytes of one layer's cache of every model, with room for the step's token; 0 for a prefill."""
    if case.stage == "prefill":
        return 0
    elements = sum(config.module.structure(config.attention).cache_elements for config in models.values())
    return 4 * case.batch * (case.held + 1) * elements


def plan(models: dict[str, model.Config], all_cases: Sequence[Case], memory: int, layers: int | None) -> list[int]:
    """How many layers each case runs through: those of the models, and fewer where their caches do not fit.

    Parameters
    ----------
    models : dict of str to Config
    all_cases : sequence of Case
    memory : int
        Bytes.
    layers : int or None
        At most so many; None: those with which the smallest cache fits as well.

    Returns
    -------
    list of int
        One for each case; 0 where not even one layer's cache fits.

    Raises
    ------
    ValueError
        Where the weights do not fit.
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
    """Random float32 parameters, n_layers deep: weights of variance 1/d_in, an embedding of variance 1/H.

    Nearly the models' own `init`, but drawn in float32, and shared where they are not attention.
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
    """Logits (B, 1, vocabulary) behind the last token: what a prefill is for."""
    return model.forward(params, ids, config, need_saved=False, last=True)[0]


def filled_caches(config: model.Config, case: Case, seed: int = 0) -> list[KVCache]:
    """One cache a layer that holds case.held random tokens, with room for one more."""
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
    """Compare prefill and decoding with a forward in float64: few tokens, layers and words, at the full width.

    Returns
    -------
    error : float
        The largest of a logit, over the largest logit.

    Raises
    ------
    RuntimeError
        Where it is more than rounding, or not finite.
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
            f"{config.mechanism}: logits are {max(errors):.1e} from float64; at most {allowed:.1e} is rounding"
        )
    return max(errors) / largest
