"""The formulas count the operations that the real code executes, product by product."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gta_ref import mechanisms
from gta_ref.cache import KVCache
from gta_ref.costs.counting import counted_products, watched
from gta_ref.costs.flops import attention_layer, forward_macs, training_macs
from gta_ref.costs.model import Model
from gta_ref.lm import model as lm
from gta_ref.mechanisms import gha, gqa, gta, gva, mha, mla

H, N_H, D = 24, 12, 4
CONFIGS: dict[str, Any] = {
    "mha": mha.Config(H, N_H, D),
    "gqa": gqa.Config(H, N_H, D, n_k=3),
    "gva": gva.Config(H, N_H, D, n_q=4),
    "gha": gha.Config(H, N_H, D, n_q=4, n_k=2, n_v=6),
    "gta": gta.Config(H, N_H, D, n_q=6, n_k=2, n_c=3, latent_dim=8, decoder_residual=True),
    "mla": mla.Config(H, N_H, latent_dim=10, nope_dim=4, rope_dim=2, value_dim=6),
}
CONFIGS["mla, query latent"] = dataclasses.replace(CONFIGS["mla"], query_latent_dim=7)
CONFIGS["gqa, gated"] = dataclasses.replace(CONFIGS["gqa"], gate="sigmoid", bias=True)
BATCH, LENGTH = 2, 5
MODELS: dict[str, Any] = {  # the attention of both layers, or of each
    **{name: CONFIGS[name] for name in ("gta", "gqa", "mla")},
    "gta, layers that differ": [CONFIGS["gta"], dataclasses.replace(CONFIGS["gta"], n_q=3, n_k=1, latent_dim=8)],
    "mla, layers that differ": [CONFIGS["mla"], dataclasses.replace(CONFIGS["mla"], latent_dim=7)],
}


def parts(name):
    module = mechanisms.load(name.partition(",")[0])
    config = CONFIGS[name]
    rng = np.random.default_rng(0)
    params = {key: watched(p) for key, p in module.init(config, rng, "float64").items()}
    x = watched(rng.standard_normal((BATCH, LENGTH, H)))
    return module, config, params, x, rng


def ways(name):
    """The arguments of a mechanism besides its configuration: MLA runs in two ways."""
    return [{"absorb": False}, {"absorb": True}] if name.startswith("mla") else [{}]


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_backward(name):
    module, config, params, x, rng = parts(name)
    for way in ways(name):
        structure = module.structure(config, **way)
        want = attention_layer(structure, LENGTH, causal_saving=False)
        with counted_products() as tally:
            out, saved = module.forward(params, x, config, engine="reference", **way)
        assert tally.macs == BATCH * sum(want.values())
        with counted_products() as tally:
            module.backward(watched(rng.standard_normal(out.shape)), saved)
        assert tally.macs == 2 * BATCH * sum(want.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_decode(name):
    module, config, params, x, _ = parts(name)
    for way in ways(name):
        structure = module.structure(config, **way)
        cache = KVCache(structure.cached, BATCH, LENGTH + 1, "float64")
        cache.arrays = {key: watched(a) for key, a in cache.arrays.items()}
        held = 0
        for new in (3, 1, 1):
            with counted_products() as tally:
                module.decode(params, x[:, held : held + new], cache, config, engine="reference", **way)
            want = attention_layer(structure, new, held, causal_saving=False)
            assert tally.macs == BATCH * sum(want.values())
            held += new


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_training_step(name):
    mechanism = name.partition(",")[0]
    config = lm.Config(19, 2, 10, MODELS[name], mechanism=mechanism)
    sizes = Model.of("tiny", mechanism, MODELS[name], n_layers=2, intermediate_size=10, vocab_size=19)
    rng = np.random.default_rng(0)
    params = {key: watched(p) for key, p in lm.init(config, rng, "float64").items()}
    ids = rng.integers(0, 19, (BATCH, LENGTH))
    with counted_products() as tally:
        loss, saved = lm.loss_forward(params, ids, config, engine="reference")
    assert np.isfinite(loss)
    forward = forward_macs(sizes, BATCH, LENGTH, causal_saving=False, all_logits=True)
    assert tally.macs == forward["total"]
    with counted_products() as tally:
        lm.loss_backward(saved)
    training = training_macs(sizes, BATCH, LENGTH, fused=False, causal_saving=False)
    assert forward["total"] + tally.macs == training["total"]
    # a fused kernel multiplies Q and K once more; everything else is the same
    again = training_macs(sizes, BATCH, LENGTH, fused=True, causal_saving=False)
    scores = sum(s.n_q * s.d_k for s in map(config.module.structure, config.layers))
    assert again["total"] - training["total"] == BATCH * scores * LENGTH**2


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("mla", "gta,"))])
def test_a_decoding_step_of_a_whole_model(name):
    """MLA attends in the latent space when it decodes: with another core than in its prefill."""
    mechanism = name.partition(",")[0]
    config = lm.Config(19, 2, 10, MODELS[name], mechanism=mechanism)
    sizes = Model.of("tiny", mechanism, MODELS[name], n_layers=2, intermediate_size=10, vocab_size=19)
    rng = np.random.default_rng(0)
    params = {key: watched(p) for key, p in lm.init(config, rng, "float64").items()}
    caches = lm.new_caches(config, BATCH, LENGTH, "float64")
    for cache in caches:
        cache.arrays = {key: watched(a) for key, a in cache.arrays.items()}
    ids = rng.integers(0, 19, (BATCH, LENGTH))
    lm.decode(params, ids[:, :-1], caches, config, engine="reference")
    with counted_products() as tally:
        lm.decode(params, ids[:, -1:], caches, config, engine="reference")
    assert tally.macs == forward_macs(sizes, BATCH, 1, LENGTH - 1)["total"]


def test_what_is_counted(rng):
    a, b = watched(rng.standard_normal((2, 3, 4))), rng.standard_normal((4, 5))
    with counted_products() as tally:
        c = a @ b
        d = np.ones((7, 2)) @ c.reshape(2, 15)
        np.ones((3, 3)) @ np.ones((3, 3))  # neither is counted
    assert tally.products == [((2, 3, 4), (4, 5)), ((7, 2), (2, 15))]
    assert tally.macs == 2 * 3 * 4 * 5 + 7 * 2 * 15
    np.testing.assert_array_equal(d, np.ones((7, 2)) @ (np.asarray(a) @ b).reshape(2, 15))
    _ = a @ b  # outside the block nothing is counted
    assert tally.macs == 2 * 3 * 4 * 5 + 7 * 2 * 15
