"""The formulas give the bytes of real caches, of real parameters and of what a real forward keeps."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.costs.memory import attention_activations, cache_bytes, training_activations, weight_bytes
from gta_ref.costs.model import Model
from gta_ref.lm import model as lm
from gta_ref.mechanisms import gha, gqa, gta, gva, mha, mla
from tests.support import small_configs

H, N_H, D = 24, 12, 4
CONFIGS: dict[str, Any] = {
    **small_configs(H, N_H, D),
    "mha": mha.Config(H, N_H, D),
    "gqa": gqa.Config(H, N_H, D, n_k=3),
    "gva": gva.Config(H, N_H, D, n_q=4),
    "gha": gha.Config(H, N_H, D, n_q=4, n_k=2, n_v=6),
    "gta": gta.Config(H, N_H, D, n_q=6, n_k=2, n_c=3, latent_dim=4),
    "mla": mla.Config(H, N_H, latent_dim=10, nope_dim=4, rope_dim=2, value_dim=6),
}
VARIANTS = {
    **CONFIGS,
    "gta, residual": dataclasses.replace(CONFIGS["gta"], decoder_residual=True),
    "gta, no gate": dataclasses.replace(CONFIGS["gta"], gate="none"),
    **{f"{name}, gated": dataclasses.replace(CONFIGS[name], gate="silu", bias=True) for name in ("mha", "gha", "mla")},
    "gqa, qk_norm": dataclasses.replace(CONFIGS["gqa"], qk_norm=True),
    "gha, qk_norm, no rope": dataclasses.replace(CONFIGS["gha"], qk_norm=True, rope_pairing="none"),
    "mla, query latent": dataclasses.replace(CONFIGS["mla"], query_latent_dim=7),
    "mla, no norm": dataclasses.replace(CONFIGS["mla"], latent_norm=False),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_cache_and_weights(name, dtype):
    module = mechanisms.load(name)
    sizes = Model.of("m", name, CONFIGS[name], n_layers=3, intermediate_size=10, vocab_size=19, tied=False)
    cached = module.structure(CONFIGS[name]).cached
    caches = [KVCache(cached, batch=2, capacity=7, dtype=dtype) for _ in range(3)]
    assert cache_bytes(sizes, 2, 7, dtype) == sum(cache.nbytes for cache in caches)
    config = lm.Config(19, 3, 10, CONFIGS[name], mechanism=name, tied=False)
    params = lm.init(config, np.random.default_rng(0), dtype)
    assert weight_bytes(sizes, dtype) == sum(p.nbytes for p in params.values())


def test_cache_and_weights_of_layers_that_differ():
    layers = [CONFIGS["gta"], dataclasses.replace(CONFIGS["gta"], n_q=3, n_k=1, latent_dim=6), CONFIGS["gta"]]
    sizes = Model.of("m", "gta", layers, n_layers=3, intermediate_size=10, vocab_size=19)
    config = lm.Config(19, 3, 10, layers)
    assert cache_bytes(sizes, 2, 7, "float32") == sum(cache.nbytes for cache in lm.new_caches(config, 2, 7))
    params = lm.init(config, np.random.default_rng(0))
    assert weight_bytes(sizes, "float32") == sum(p.nbytes for p in params.values())


def kept_bytes(saved, params):
    """Bytes of all arrays that `saved` refers to, without parameters and tables of angles; each memory counts once."""
    given = {id(_owner(p)) for p in params}
    owners, seen = {}, set()

    def walk(x):
        if id(x) in seen:
            return
        seen.add(id(x))
        if isinstance(x, np.ndarray):
            owner = _owner(x)
            if id(owner) not in given:
                owners[id(owner)] = owner
        elif isinstance(x, tuple | list):
            # RoPE's (cos, sin, pairing)
            if len(x) == 3 and isinstance(x[2], str):
                return
            for part in x:
                walk(part)
        elif isinstance(x, dict):
            walk(tuple(x.values()))
        elif hasattr(x, "__dict__") and type(x).__module__.startswith("gta_ref") and not isinstance(x, type):
            walk(tuple(vars(x).values()))

    walk(saved)
    return sum(x.nbytes for x in owners.values())


def _owner(x):
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_layer_keeps(name):
    module, config = mechanisms.load(name.partition(",")[0]), VARIANTS[name]
    rng = np.random.default_rng(0)
    params = module.init(config, rng, "float64")
    x = rng.standard_normal((2, 5, H))
    for way in [{"absorb": False}, {"absorb": True}] if name.startswith("mla") else [{}]:
        _, saved = module.forward(params, x, config, engine="reference", **way)
        want = attention_activations(module.structure(config, **way), 2, 5, fused=False)
        assert kept_bytes(saved, params.values()) == 8 * want


@pytest.mark.parametrize(
    "attention",
    [CONFIGS["gta"], CONFIGS["gqa"], [CONFIGS["gta"], dataclasses.replace(CONFIGS["gta"], n_q=3, n_k=1, latent_dim=6)]],
    ids=["gta", "gqa", "gta, layers of two sizes"],
)
def test_what_a_model_keeps(attention):
    name = "gqa" if attention is CONFIGS["gqa"] else "gta"
    config = lm.Config(19, 2, 10, attention, mechanism=name)
    sizes = Model.of("m", name, attention, n_layers=2, intermediate_size=10, vocab_size=19)
    rng = np.random.default_rng(0)
    params = lm.init(config, rng, "float64")
    ids = rng.integers(0, 19, (2, 5))
    logits, saved = lm.forward(params, ids, config, engine="reference")
    held = kept_bytes((saved, logits), [*params.values(), ids])
    assert held == 8 * training_activations(sizes, 2, 5, fused=False)


def test_a_fused_layer_keeps_no_map():
    structure = gta.structure(gta.Config.preset("gta-1b"))
    short, long = (attention_activations(structure, 1, n) for n in (1024, 65536))
    assert long == 64 * short  # linear in N
    unfused = attention_activations(structure, 1, 65536, fused=False)
    assert unfused - long == 65536 * 5 * (65536 - 1)  # the maps are kept instead of lse
