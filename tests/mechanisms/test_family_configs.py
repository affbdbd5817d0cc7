"""Sizes of MHA, GQA, GVA and GHA: the paper's table, the published configuration, and sizes that are refused."""

import dataclasses

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.mechanisms import gha, gqa, gva, load, mha

H, N_H, D = 48, 12, 4  # the table is for n_h·d_h = H
CONFIGS = {
    "mha": mha.Config(H, N_H, D),
    "gqa": gqa.Config(H, N_H, D, n_k=3),
    "mqa": gqa.Config(H, N_H, D, n_k=1),
    "gva": gva.Config(H, N_H, D, n_q=4),
    "gha": gha.Config(H, N_H, D, n_q=6, n_k=3, n_v=4),
}
# the paper's complexity table: cache / N, attention / N², linear / N
TABLE = {
    "mha": lambda c: (2 * N_H * D, 2 * N_H * D, 4 * H**2),
    "gqa": lambda c: (2 * c.n_k * D, 2 * N_H * D, 2 * H**2 + 2 * c.n_k * D * H),
    "gva": lambda c: (H + c.n_k * D, c.n_q * D + N_H * D, 2 * H**2 + 2 * c.n_k * D * H),
    "gha": lambda c: (
        c.n_k * D + c.n_v * D,
        c.n_q * D + N_H * D,
        H**2 + (c.n_q + c.n_k + c.n_v) * D * H,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_papers_table(name):
    config = CONFIGS[name]
    s = load(config.mechanism).structure(config)
    cache, attention, linear = TABLE[config.mechanism](config)
    assert s.cache_elements == cache
    assert KVCache(s.cached, 2, 7, "bfloat16").nbytes == 2 * 7 * 2 * cache  # the bytes that are really allocated
    assert s.attention_macs == attention
    assert s.linear_macs == linear
    assert s.held_macs == 0
    assert s.mechanism == config.mechanism


def test_gqa_1b():
    config = gqa.Config.preset("gqa-1b")
    assert dataclasses.astuple(config)[:3] == (1280, 20, 64)
    assert config.n_k == 5
    s = gqa.structure(config)
    assert s.cache_elements == 640
    assert s.attention_macs == 2 * 20 * 64
    assert s.parameters == 4_096_000
    with pytest.raises(ValueError, match="preset='gta-1b' must be one of 'gqa-1b'"):
        gqa.Config.preset("gta-1b")


@pytest.mark.parametrize("options", [{}, dict(gate="silu", bias=True), dict(output_bias=True)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_count_every_array(name, options):
    config = dataclasses.replace(CONFIGS[name], **options)
    mechanism = load(config.mechanism)
    shapes = mechanism.param_shapes(config)
    s = mechanism.structure(config)
    assert s.parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert [p.name for p in s.products] == [name for name in shapes if name.startswith("w_")]
    assert {p.name for p in s.products if p.bias} == {f"w_{name[2:]}" for name in shapes if name.startswith("b_")}
    assert s.gate == config.gate


def test_what_follows_from_the_sizes():
    assert (CONFIGS["mha"].n_q, CONFIGS["mha"].n_k, CONFIGS["mha"].n_v) == (12, 12, 12)
    assert (CONFIGS["gqa"].n_q, CONFIGS["gqa"].n_k, CONFIGS["gqa"].n_v) == (12, 3, 3)
    assert (CONFIGS["gva"].n_q, CONFIGS["gva"].n_k, CONFIGS["gva"].n_v) == (4, 4, 12)
    assert (CONFIGS["gha"].heads_per_map, CONFIGS["gha"].n_blocks) == (2, 2)
    assert gha.structure(CONFIGS["gha"]).cached == {"k": (3, 4), "v": (2, 8)}
    cores = {name: load(c.mechanism).structure(c) for name, c in CONFIGS.items()}
    assert {name: (s.n_q, s.n_k, s.n_v, s.d_k, s.d_v) for name, s in cores.items()} == {
        "mha": (12, 12, 12, 4, 4),
        "gqa": (12, 3, 3, 4, 4),
        "mqa": (12, 1, 1, 4, 4),
        "gva": (4, 4, 4, 4, 12),
        "gha": (6, 3, 2, 4, 8),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["gqa"].n_k = 4
    assert type(gqa.Config(np.int64(H), N_H, D, np.int32(3)).n_k) is int


def test_configs_survive_a_dict():
    for config in CONFIGS.values():
        assert type(config)(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("mha", dict(hidden_size=0), "hidden_size=0 must be a whole number of at least 1"),
        ("mha", dict(n_heads=True), "n_heads=True must be a whole number of at least 1"),
        ("gqa", dict(n_k=5), "n_k=5 must divide n_heads=12"),
        ("gqa", dict(n_k=24), "n_k=24 must divide n_heads=12"),
        ("gqa", dict(n_k=0), "n_k=0 must be a whole number of at least 1"),
        ("gva", dict(n_q=5), "n_q=5 must divide n_heads=12"),
        ("gva", dict(n_q=4.0), r"n_q=4\.0 must be a whole number of at least 1"),
        ("gha", dict(n_q=5), "n_q=5 must divide n_heads=12"),
        ("gha", dict(n_k=4), "n_k=4 must divide n_q=6"),
        ("gha", dict(n_v=3), "n_v=3 must be a multiple of n_heads/n_q=2"),
        ("gha", dict(n_v=8), "n_v=8 makes 4 blocks of n_heads/n_q=2 value heads; expected .* to divide n_q=6"),
        ("gha", dict(n_v="4"), "n_v='4' must be a whole number of at least 1"),
        ("mha", dict(head_dim=3), "head_dim=3 must be even: RoPE turns pairs of features"),
        ("gqa", dict(rope_theta=float("inf")), "rope_theta=inf must be a finite number above 0"),
        ("gva", dict(rope_pairing="rotate"), "rope_pairing='rotate' must be one of 'half', 'interleaved', 'none'"),
        ("gha", dict(gate="tanh"), "gate='tanh' must be one of 'sigmoid', 'silu', 'relu2', 'none'"),
        ("mha", dict(bias="yes"), "bias='yes' must be True or False"),
        ("gqa", dict(output_bias=1), "output_bias=1 must be True or False"),
        ("gqa", dict(qk_norm=1), "qk_norm=1 must be True or False"),
        ("gha", dict(rope_magnitude=0), "rope_magnitude=0 must be a finite number above 0"),
        ("gqa", dict(score_scale=-1), "score_scale=-1 must be a finite number above 0"),
        ("mha", dict(norm_eps="small"), "norm_eps='small' must be a number above 0"),
        ("mha", dict(rope_frequencies=1.0), "rope_frequencies is a float; expected None or a list of floats"),
        ("mha", dict(rope_frequencies=[]), "rope_frequencies has 0 entries; expected 1 to 2, at most one per pair"),
        ("mha", dict(rope_frequencies=[1.0, 0.1, 0.01]), "rope_frequencies has 3 entries; expected 1 to 2"),
        ("mha", dict(rope_frequencies=[1.0, -0.1]), r"rope_frequencies\[1\]=-0\.1 must be a finite number above 0"),
        ("mha", dict(rope_frequencies=[1.0], rope_pairing="none"), "must be None with rope_pairing='none'"),
    ],
)
def test_refused_sizes(name, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIGS[name], **change)
