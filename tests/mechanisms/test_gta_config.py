"""Sizes of GTA: the published configurations, what follows from them, and sizes that are refused."""

import dataclasses

import pytest

from gta_ref.mechanisms import gta, load
from gta_ref.weights.official import layer_config

# name: maps, cached elements per token and layer, share of MHA's cache (the paper's table)
PUBLISHED = {
    "gta1-160m": (3, 192, 0.125),
    "gta2-160m": (6, 192, 0.125),
    "gta3-500m": (5, 192, 0.075),
    "gta4-500m": (10, 320, 0.125),
    "gta-1b": (5, 192, 0.075),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets(name):
    config = gta.Config.preset(name)
    maps, elements, share = PUBLISHED[name]
    structure = gta.structure(config)
    assert structure.n_q == maps
    assert structure.cache_elements == elements
    assert elements / (2 * config.n_heads * config.head_dim) == share
    assert config.n_heads * config.head_dim == config.hidden_size
    assert config.decoder_residual == (name != "gta4-500m")


def test_gta_1b_counts():
    structure = gta.structure(gta.Config.preset("gta-1b"))
    assert structure.parameters == 4_097_792
    assert structure.attention_macs == 5 * (64 + 128)
    # the paper's table: 2 H² + (n_q d_h + n_k d_h + n_c d_l + d_l) H
    assert structure.linear_macs == 2 * 1280**2 + (5 * 64 + 64 + 128 + 128) * 1280
    assert [p.name for p in structure.products] == ["w_q", "w_k", "w_c", "w_g", "w_p", "w_o"]
    assert structure.cached == {"k": (1, 64), "c": (1, 128)}


def test_parameters_count_every_array():
    for change in ({}, {"bias": False}, {"gate": "none"}, {"n_k": 2, "n_c": 3}):
        config = gta.Config(
            **{**dict(hidden_size=24, n_heads=12, head_dim=4, n_q=6, n_k=1, n_c=1, latent_dim=8), **change}
        )
        total = 0
        for shape in gta.param_shapes(config).values():
            size = 1
            for n in shape:
                size *= n
            total += size
        assert gta.structure(config).parameters == total


GOOD = dict(hidden_size=24, n_heads=20, head_dim=4, n_q=10, n_k=5, n_c=2, latent_dim=8)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(n_q=3, n_k=1, n_c=1), "n_q=3 must divide n_heads=20"),
        (dict(n_k=4), "n_k=4 must divide n_q=10"),
        (dict(n_c=3), "n_c=3 must divide n_q=10"),
        (dict(hidden_size=0), "hidden_size=0 must be a whole number of at least 1"),
        (dict(head_dim=4.0), r"head_dim=4\.0 must be a whole number of at least 1"),
        (dict(n_heads=True), "n_heads=True must be a whole number"),
        (dict(latent_dim="8"), "latent_dim='8' must be a whole number"),
        (dict(head_dim=5), "head_dim=5 must be even: RoPE turns pairs of features"),
        (dict(rope_theta=-1), "rope_theta=-1 must be a finite number above 0"),
        (dict(rope_pairing="halves"), "rope_pairing='halves' must be one of 'half', 'interleaved', 'none'"),
        (dict(gate="tanh"), "gate='tanh' must be one of 'sigmoid', 'silu', 'relu2', 'none'"),
        (dict(gate=None), "gate=None must be one of"),
        (dict(bias=1), "bias=1 must be True or False"),
        (dict(decoder_residual="yes"), "decoder_residual='yes' must be True or False"),
        (dict(decoder_residual=True, latent_dim=16), r"needs a whole e = .* got 20·4 / \(10·16\) = 0\.5"),
    ],
)
def test_refused_sizes(change, message):
    gta.Config(**GOOD)
    with pytest.raises(ValueError, match=message):
        gta.Config(**{**GOOD, **change})


def test_a_config_is_frozen_and_equal_by_value():
    config = gta.Config(**GOOD)
    assert config == gta.Config(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_q = 5


def test_unknown_names():
    with pytest.raises(ValueError, match="preset='gta-2b' must be one of 'gta1-160m'"):
        gta.Config.preset("gta-2b")
    with pytest.raises(ValueError, match="mechanism='sliding' must be one of 'gta'"):
        load("sliding")


OFFICIAL = {
    "hidden_size": 128,
    "num_attention_heads": 8,
    "head_dim": 16,
    "num_query_heads": 4,
    "query_dim": 16,
    "num_key_heads": 2,
    "key_dim": 16,
    "num_value_heads": 2,
    "value_dim": 16,
    "rope_theta": 500.0,
    "attention_bias": False,
}


def test_official_config():
    config = layer_config(OFFICIAL)
    assert config == gta.Config(128, 8, 16, 4, 2, 2, 16, rope_theta=500.0, decoder_residual=True, bias=True)
    assert layer_config({k: v for k, v in OFFICIAL.items() if k != "head_dim"}).head_dim == 16


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(query_dim=8), "official config: query_dim=8 must equal head_dim=16"),
        (dict(key_dim=8), "official config: key_dim=8 must equal head_dim=16"),
        (dict(rope_scaling={"type": "linear"}), "official config: rope_scaling=.* must be null"),
        (dict(partial_rotary_factor=0.5), "official config: unknown partial_rotary_factor=0.5; expected no field"),
        (dict(attn_logit_softcapping=50.0, sliding_window=8), "unknown attn_logit_softcapping=50.0, sliding_window=8"),
        (dict(rope_parameters={"rope_theta": 1e4}), "official config: unknown rope_parameters="),
        (dict(value_dim=64), "decoder_residual=True needs a whole e"),
        (dict(num_query_heads=3), "n_q=3 must divide n_heads=8"),
        (dict(num_query_heads="4"), "n_q='4' must be a whole number"),
    ],
)
def test_official_config_refused(change, message):
    with pytest.raises(ValueError, match=message):
        layer_config({**OFFICIAL, **change})


def test_official_config_names_what_is_missing():
    with pytest.raises(ValueError, match="official config: missing num_query_heads, value_dim; expected hidden_size"):
        layer_config({k: v for k, v in OFFICIAL.items() if k not in ("num_query_heads", "value_dim")})
