"""What ``gta-ref tour`` computes: a GTA-1B-sized attention layer on real text, every claim computed.

Nothing in this module prints. Each step returns its findings as plain numbers, which ``commands/tour.py`` prints.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.costs.memory import cache_bytes
from gta_ref.costs.model import Model
from gta_ref.files import write_json
from gta_ref.lm import model as lm
from gta_ref.lm.language_model import LanguageModel
from gta_ref.mechanisms import gta
from gta_ref.ops import as_dtype, decoder_forward, linear_forward
from gta_ref.ops.arrays import normal
from gta_ref.ops.heads import split_heads
from gta_ref.verify.gradcheck import directional_error

CONFIG = gta.Config.preset("gta-1b")
MODELS = {name: Model.preset(name) for name in ("gta-1b", "gqa-1b")}  # the second is the paper's baseline
LAYERS = MODELS["gta-1b"].n_layers
CONTEXT = 2048  # tokens; the context length with which the model was trained
LENGTH = 192  # bytes of text that the layer reads
SHOWN = 40  # bytes of that text in the figure of the maps
TOKENS = 32  # tokens of that text that a trained model reads
DEFINED = 64  # tokens that the definition, plain loops, computes
EXACT = 1e-12  # bound for one order of float64 sums against another, relative to the largest value
GRADIENT = 1e-7  # bound for gradients against finite differences in float64


@dataclass(frozen=True)
class Tour:
    """The layer's parameters and the text that it reads."""

    source: str
    text: bytes
    params: dict[str, np.ndarray]  # float64
    x: np.ndarray  # (1, N, H), float64
    rng: np.random.Generator


class Latents(NamedTuple):
    """What the first latent head of a layer holds, and what the decoders of the maps that read it make of it."""

    latents: np.ndarray  # (N, d_l)
    values: np.ndarray  # (N, heads·d_h)
    head_dim: int
    heads_per_map: int


class RealMaps(NamedTuple):
    """Attention maps of a trained model's layer, and the tokens that it read."""

    maps: np.ndarray  # (n_q, N, N)
    tokens: list[str]
    n_heads: int  # output heads
    latents: Latents | None  # None if the layer has no latent heads


def default_text() -> tuple[str, bytes]:
    """Return a name and a text: the source of ``textwrap.dedent`` in the standard library of the running Python."""
    return "Python's textwrap.dedent", inspect.getsource(textwrap.dedent).encode()


def start(source: str, text: bytes, seed: int) -> Tour:
    """Draw random weights and a random embedding of bytes, normalised as by an RMSNorm, and embed the text.

    Raises
    ------
    ValueError
        If the text has fewer bytes than the figure of the maps shows.
    """
    if len(text) < SHOWN:
        raise ValueError(f"the text of {source} has {len(text)} bytes; expected at least {SHOWN}")
    text = text[:LENGTH]
    rng = np.random.default_rng(seed)
    embedding = rng.standard_normal((256, CONFIG.hidden_size))
    embedding /= np.sqrt((embedding**2).mean(axis=-1, keepdims=True))
    params = gta.init(CONFIG, rng, "float64")
    for name in ("b_q", "b_k", "b_c", "b_g"):  # if the biases were 0, one that the code forgets would not show
        params[name] = normal(rng, params[name].shape, 0.1, params[name].dtype)
    return Tour(source, text, params, embedding[np.frombuffer(text, np.uint8)][None], rng)


def stages(tour: Tour) -> tuple[dict[str, Any], np.ndarray]:
    """Return shape, dtype and bytes of every stage of the forward pass in float32, and the maps (n_q, N, N)."""
    params = {name: p.astype(np.float32) for name, p in tour.params.items()}
    trace: dict[str, np.ndarray] = {}
    gta.forward(params, tour.x.astype(np.float32), CONFIG, trace=trace, need_saved=False)
    found = {name: {"shape": list(a.shape), "dtype": str(a.dtype), "bytes": a.nbytes} for name, a in trace.items()}
    return found, trace["map"][0]


def equation_7_is_8(tour: Tour) -> dict[str, Any]:
    """Compare the definition (Eq. 7: decode every value, gate, attend) with the layer (Eq. 8: attend, decode, gate)."""
    x = tour.x[:, :DEFINED]
    absorbed, _ = gta.forward(tour.params, x, CONFIG, engine="reference", need_saved=False)
    definition = gta.forward_unabsorbed(tour.params, x, CONFIG)
    error = relative_error(definition, absorbed)
    return {"relative_error": error, "bound": EXACT, "holds": error <= EXACT}


def gradients(tour: Tour) -> dict[str, Any]:
    """Compare directional derivatives by every parameter and by x with finite differences, at N = 64, in float64."""
    inputs = {**tour.params, "x": tour.x[:, :64]}
    cotangent = tour.rng.standard_normal(inputs["x"].shape)

    def layer(arrays: Any) -> np.ndarray:
        params = {name: a for name, a in arrays.items() if name != "x"}
        return gta.forward(params, arrays["x"], CONFIG, need_saved=False)[0]

    _, saved = gta.forward(tour.params, inputs["x"], CONFIG)
    dx, grads = gta.backward(cotangent, saved)
    grads = {**grads, "x": dx}
    # each error is relative to the terms of all inputs together: if the text is a single letter repeated, all values
    # are equal and the maps have no effect, so the gradient by queries and keys is 0 except for rounding
    errors = {name: directional_error(layer, inputs, cotangent, grads, tour.rng, along=[name]) for name in inputs}
    errors["all at once"] = directional_error(layer, inputs, cotangent, grads, tour.rng)
    worst = max(errors.values())
    return {"relative_error": errors, "bound": GRADIENT, "holds": worst <= GRADIENT}


def decoding(tour: Tour) -> dict[str, Any]:
    """Compare decoding token by token with whole sequences: three, left-padded by 0, 5 and 17 tokens."""
    length, k_start = 48, np.array([0, 5, 17])
    x = np.concatenate([tour.x[:, i * 8 : i * 8 + length] for i in range(3)])  # (3, 48, H)
    whole, _ = gta.forward(tour.params, x, CONFIG, mask=Mask(k_start=k_start), need_saved=False)
    cache = KVCache(gta.structure(CONFIG).cached, 3, length, "float64", k_start)
    steps = [gta.decode(tour.params, x[:, t : t + 1], cache, CONFIG) for t in range(length)]
    error = relative_error(np.concatenate(steps, axis=1), whole)
    return {"left_padding": k_start.tolist(), "relative_error": error, "bound": EXACT, "holds": error <= EXACT}


def costs(tour: Tour) -> dict[str, Any]:
    """Count the bytes that the caches of all layers hold, and the operations of the attention core, for both models.

    The caches are bfloat16. The keys and values of the text are appended again and again, up to CONTEXT tokens.
    """
    n = tour.x.shape[1]
    x = tour.x.astype(np.float32)
    held: dict[str, list[tuple[int, int]]] = {}
    for name, model in MODELS.items():
        cached = model.structure.cached
        entries = {}
        for entry, (heads, width) in cached.items():
            w = tour.rng.standard_normal((CONFIG.hidden_size, heads * width)).astype(np.float32)
            entries[entry] = split_heads(linear_forward(x, w)[0], heads).astype(as_dtype("bfloat16"))
        caches = [KVCache(cached, 1, CONTEXT, "bfloat16") for _ in range(LAYERS)]
        held[name] = []
        while caches[0].length < CONTEXT:
            room = CONTEXT - caches[0].length
            for cache in caches:
                cache.append(**{entry: a[:, :, : min(n, room)] for entry, a in entries.items()})
            held[name].append((caches[0].length, sum(cache.used_nbytes for cache in caches)))

    structures = {name: model.structure for name, model in MODELS.items()}
    macs = {name: s.attention_macs for name, s in structures.items()}
    full = {name: points[-1][1] for name, points in held.items()}
    cache_ratio, attention_ratio = full["gta-1b"] / full["gqa-1b"], macs["gta-1b"] / macs["gqa-1b"]
    return {
        "layers": LAYERS,
        "tokens": CONTEXT,
        "cache_elements": {name: s.cache_elements for name, s in structures.items()},
        "cache_bytes": full,
        "cache_bytes_while_filling": held,
        "cache_ratio": cache_ratio,
        "attention_macs": macs,
        "attention_ratio": attention_ratio,
        "holds": math.isclose(cache_ratio, 0.3) and attention_ratio == 0.375,
    }


def trained_model(which: str) -> LanguageModel | str:
    """Load a model by its name or from its file; for the pretrained one, return why it is not there if it is not."""
    from gta_ref.weights import pretrained
    from gta_ref.weights.load import load_model

    if which in pretrained.MODELS and (reason := pretrained.why_not(which)) is not None:
        return reason
    return load_model(which)


def pretrained_maps(tour: Tour, model: LanguageModel | str) -> tuple[dict[str, Any], RealMaps | None]:
    """Compute the maps of a trained model's middle layer on the text and compare its heads, or say why not.

    The cosines are None if the layer has only one map. ``latents`` is None unless the model is GTA.
    """
    from gta_ref.maps import compare

    if isinstance(model, str):
        return {"left_out": model}, None
    ids = model.tokenizer.encode(tour.text.decode("utf-8", errors="replace"))[:TOKENS]
    if len(ids) < 3:  # a query needs two keys to choose from besides the first
        return {"left_out": f"the text has only {len(ids)} tokens for this model; expected at least 3"}, None
    layer = model.config.n_layers // 2
    trace = next(islice(lm.layer_traces(model.params, np.array([ids]), model.config), layer, None))
    maps = trace["map"][0]  # (n_q, N, N)
    cosine: dict[str, float | None] = {}
    for name, keys in (("all_keys", []), ("without_first", [0])):
        left = compare.without(maps, keys)
        cosine[name] = compare.between_heads(compare.compare(left, left).cosine) if len(maps) > 1 else None
    config = model.config.layer(layer)
    latents = None
    if isinstance(config, gta.Config):
        w_p = model.params[f"layers.{layer}.attention.w_p"]
        read = np.repeat(trace["c"], config.n_q // config.n_c, axis=1)  # the latent that each map reads
        decoded, _ = decoder_forward(read, w_p, config.decoder_residual)  # (1, N, n_h·d_h)
        width = config.n_heads // config.n_c * config.head_dim  # of the heads that read the first latent
        latents = Latents(trace["c"][0, 0], decoded[0, :, :width], config.head_dim, config.n_heads // config.n_q)
    found = {
        "model": model.name,
        "layer": layer,
        "tokens": len(ids),
        "maps": len(maps),
        "heads": config.n_heads,
        "first_weight": float(maps[:, 1:, 0].mean()),
        "cosine": cosine,
        "latents": None if latents is None else {"heads": config.n_c, "width": config.latent_dim},
    }
    return found, RealMaps(maps, [model.tokenizer.decode([i]) for i in ids], config.n_heads, latents)


def write(tour: Tour, maps: np.ndarray, real: RealMaps | None, figures: dict[str, Any], out: Path) -> list[Path]:
    """Write the figures and the JSON file into the folder `out`; return their paths."""
    from gta_ref.plots.cache import cache_growth
    from gta_ref.plots.common import save
    from gta_ref.plots.latents import latents_and_values
    from gta_ref.plots.maps import attention_maps

    out.mkdir(parents=True, exist_ok=True)
    found = figures["costs"]
    drawings = {
        "maps.png": attention_maps(
            maps[:, :SHOWN, :SHOWN],
            list(tour.text[:SHOWN].decode("latin-1")),
            n_heads=CONFIG.n_heads,
            title=f"The attention maps of a GTA-1B layer with random weights, on {tour.source}",
        ),
        "cache.png": cache_growth(
            {name: cache_bytes(model, 1, 1) for name, model in MODELS.items()},
            found["cache_bytes_while_filling"],
            f"KV cache, {LAYERS} layers, bfloat16",
        ),
    }
    if real is not None:
        about = figures["pretrained_maps"]
        title = f"{about['model']}, a trained model: the maps of layer {about['layer']} on {tour.source}"
        n_heads = real.n_heads if real.n_heads > len(real.maps) else None
        drawings["real-maps.png"] = attention_maps(real.maps, real.tokens, n_heads=n_heads, title=title)
        if real.latents is not None:
            latents, values, head_dim, heads_per_map = real.latents
            drawings["real-latents.png"] = latents_and_values(latents, values, real.tokens, head_dim, heads_per_map)
    for name, figure in drawings.items():
        save(figure, out / name)
    write_json(out / "tour.json", figures)
    return [*(out / name for name in drawings), out / "tour.json"]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference, divided by the largest absolute value of `want`."""
    return float(np.abs(got - want).max() / np.abs(want).max())


STEPS: dict[str, Callable[[Tour], Any]] = {
    "stages": stages,
    "equation_7_is_8": equation_7_is_8,
    "gradients": gradients,
    "decoding": decoding,
    "costs": costs,
}
