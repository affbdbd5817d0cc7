"""Sizes from names, words and files; hardware; the frontier and the design space."""

from collections import Counter

import numpy as np
import pytest

from gta_ref.costs import frontier, hardware, llm_viewer
from gta_ref.costs.model import Group, Model
from gta_ref.costs.operators import operators
from gta_ref.costs.roofline import estimate
from gta_ref.costs.summary import summary
from gta_ref.mechanisms import gqa


def test_published_models():
    gta, gqa = Model.preset("gta-1b"), Model.preset("gqa-1b")
    assert gta.parameters == 1_128_766_208
    assert gqa.parameters == 1_128_669_440
    assert gta.structure.parameters == 4_097_792
    assert gqa.structure.parameters == 4_096_000


def test_words_and_mappings():
    by_words = Model.parse("gta n_q=10 n_k=1 n_c=1 latent_dim=256 gate=none bias=false n_layers=24")
    by_names = Model.from_dict(
        {"mechanism": "gta", "n_q": 10, "n_k": 1, "n_c": 1, "latent_dim": 256, "gate": "none", "bias": False,
         "n_layers": 24, "name": "x"}
    )  # fmt: skip
    assert by_words.structure == by_names.structure
    assert by_words.n_layers == by_names.n_layers == 24
    assert by_words.name == "gta n_q=10 n_k=1 n_c=1 latent_dim=256 gate=none bias=false n_layers=24"
    assert by_names.name == "x"
    assert by_words.vocab_size == 128256
    assert Model.parse("gqa n_k=5").structure == Model.preset("gqa-1b").structure


def test_mla_decodes_in_the_latent_space():
    model = Model.parse("mla latent_dim=512 nope_dim=64 rope_dim=32 value_dim=64")
    assert model.structure.d_v == 64
    assert model.decode_structure.d_v == 512
    absorbed = estimate(model, "decode", 1, 4096, hardware.get("h100"), fused=True)
    decompressed = Model(model.name, (Group(model.structure, model.structure, 54),), 3584, 128256)
    again = estimate(decompressed, "decode", 1, 4096, hardware.get("h100"), fused=True)
    assert again.operations > 2 * absorbed.operations


@pytest.mark.parametrize(
    "listed",
    [
        lambda model: operators(model, 2, 1, 7, fused=True),
        lambda model: operators(model, 2, 7, 0, fused=False),
        lambda model: llm_viewer.operators(model, 2, 7, prefill=False, fused=True),
    ],
    ids=["decode", "prefill", "llm-viewer"],
)
def test_operators_of_layers_that_differ(listed):
    """Those of a model of one layer of the first size, and what two more layers of the second size add to a model."""

    def counted(attention, n_layers):
        total = Counter()
        for operator in listed(Model.of("m", "gqa", attention, n_layers=n_layers, intermediate_size=10, vocab_size=19)):
            total[operator.name, "operations"] += operator.operations
            total[operator.name, "bytes"] += operator.bytes
        return total

    one, two = gqa.Config(24, 12, 4, n_k=3), gqa.Config(24, 12, 4, n_k=6)
    want = counted(one, 1) + counted(two, 3)
    want.subtract(counted(two, 1))
    assert counted([one, two, two], 3) == want


def test_layers_that_differ():
    layers = [gqa.Config(24, 12, 4, n_k=n_k) for n_k in (3, 6, 6)]
    mixed = Model.of("m", "gqa", layers, n_layers=3)
    assert [(group.structure.n_k, group.n_layers) for group in mixed.groups] == [(3, 1), (6, 2)]
    assert mixed.n_layers == 3
    with pytest.raises(ValueError, match="model m has 2 groups of layers; expected one, of one size"):
        _ = mixed.structure
    assert Model.of("m", "gqa", layers[1:], n_layers=2).structure.n_k == 6
    with pytest.raises(ValueError, match="attention has 3 Configs; expected one, or n_layers=54"):
        Model.of("m", "gqa", layers)
    with pytest.raises(ValueError, match=r"attention\[1\] is .*; expected the Config of mechanism='gqa'"):
        Model.of("m", "gqa", [layers[0], 3], n_layers=2)
    with pytest.raises(ValueError, match=r"groups\[1\].structure.hidden_size=36 must be 24, as in groups\[0\]"):
        Model.of("m", "gqa", [layers[0], gqa.Config(36, 12, 4, n_k=3)], n_layers=2)
    with pytest.raises(ValueError, match="expected a sequence of at least one"):
        Model("m", (), 10, 19)


def test_the_summary_has_means_over_layers_that_differ():
    layers = [gqa.Config(24, 12, 4, n_k=n_k) for n_k in (3, 6, 6)]
    mixed, plain = (Model.of(name, "gqa", one, n_layers=3) for name, one in (("m", layers), ("p", layers[0])))
    found = summary([mixed, plain], 1, 8, hardware.get("h100"))
    assert found["models"]["m"]["cache_elements"] == (24 + 48 + 48) / 3
    assert found["models"]["m"]["cache_bytes_per_token"] == 2 * (24 + 48 + 48)
    assert found["models"]["m"]["attention_macs"] == 2 * 12 * 4  # the same in all layers, and so a whole number
    assert isinstance(found["models"]["m"]["attention_macs"], int)
    assert found["ratios"]["m"]["cache"] == pytest.approx(40 / 24)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "mechanism='' must be one of 'gta', 'mha'"),
        ("rwkv n=1", "mechanism='rwkv' must be one of"),
        ("gta n_q", "'n_q' must be of the form size=number"),
        ("gta n_q=10", "missing n_k, n_c, latent_dim; gta has hidden_size, n_heads"),
        ("gqa n_k=5 n_c=3", "unknown n_c"),
        ("gqa n_k=7", "n_k=7 must divide n_heads=20"),
        ("gqa n_k=5 n_layers=0", "n_layers=0 must be a whole number of at least 1"),
        ("gqa n_k=5 vocab_size=1.5", r"vocab_size=1\.5 must be a whole number"),
        ("gqa n_k=5 tied=maybe", "tied='maybe' must be True or False"),
    ],
)
def test_wrong_sizes(text, message):
    with pytest.raises(ValueError, match=message):
        Model.parse(text)


def test_wrong_mappings():
    with pytest.raises(ValueError, match="model: missing mechanism"):
        Model.from_dict({"n_q": 3})
    with pytest.raises(ValueError, match="model: missing mechanism"):
        Model.from_dict([1])
    with pytest.raises(ValueError, match="model='gta-2b' must be one of 'gta-1b', 'gqa-1b'"):
        Model.preset("gta-2b")


def test_hardware():
    for name, preset in hardware.PRESETS.items():
        assert hardware.get(name) is preset
        assert preset.name == name
        assert preset.source
    given = hardware.get("3072,989.5")
    assert (given.bandwidth, given.peak, given.memory) == (3072e9, 989.5e12, None)
    for wrong in ("cray", "1,2,3", "fast,1", ""):
        with pytest.raises(ValueError, match="must be one of h100, a100, rtx3060, m2, measured, or two numbers"):
            hardware.get(wrong)
    with pytest.raises(ValueError, match=r"bandwidth=-1000000000\.0 must be a finite number above 0"):
        hardware.get("-1,5")


def test_this_machine():
    found = hardware.measure(seconds=0.02)
    assert 1e8 < found.bandwidth < 1e13
    assert 1e9 < found.peak < 1e16


def test_frontier():
    machine = hardware.get("h100")
    models = Model.preset("gta-1b"), Model.preset("gqa-1b")
    batches, lengths = (1, 32, 256), (512, 4096, 32768)
    found = frontier.speed_ups(*models, machine, batches=batches, lengths=lengths)
    assert list(found["ratio"]) == ["prefill unfused", "prefill fused", "decode unfused", "decode fused"]
    slow, fast = (estimate(m, "decode", 32, 4096, machine, fused=True).seconds for m in reversed(models))
    assert found["ratio"]["decode fused"][1, 1] == slow / fast
    for grid in found["ratio"].values():
        np.testing.assert_array_equal(np.isnan(grid), [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
        # longer texts and larger batches never make the advantage smaller
        assert (np.diff(grid[:2], axis=1) > 0).all()


def test_from_where_the_ratio_stays_above_a_level():
    lengths = (1, 2, 4, 8, 16)
    for row, want in (
        ([1, 2, 3, 4, 5], 2),
        ([2, 1, 3, 4, 5], 4),  # not from 1, because at 2 the ratio falls below the level again
        ([2, 2, 2, 2, 2], 1),
        ([1, 1, 1, 1, 1], None),
        ([1, 1, 3, np.nan, np.nan], 4),
        ([np.nan] * 5, None),
    ):
        assert frontier._from_where(np.array(row, float), lengths, 2.0) == want


def test_choices():
    found = frontier.choices(96, 12, 8, parameters=0, latent_dims=(16, 32))
    assert len({(c.n_q, c.n_k, c.n_c, c.latent_dim) for c in found}) == len(found)
    assert [c for c in found if c.efficient] == [
        c for c in found if (c.n_q, c.n_k, c.n_c, c.latent_dim) == (1, 1, 1, 16)
    ]
    budget = sorted(c.parameters for c in found)[len(found) // 2]
    found = frontier.choices(96, 12, 8, parameters=budget, latent_dims=(16, 32))
    enough = [c for c in found if c.parameters >= budget]
    for c in found:
        better = [
            o for o in enough
            if o.cache <= c.cache and o.attention <= c.attention and (o.cache, o.attention) != (c.cache, c.attention)
        ]  # fmt: skip
        assert c.efficient == (c.parameters >= budget and not better)
    assert 1 < sum(c.efficient for c in found) < len(enough)
