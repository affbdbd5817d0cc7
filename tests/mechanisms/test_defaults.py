"""The options that a configuration has if none are given: a changed default would change every model silently."""

import pytest

from gta_ref.mechanisms import NAMES, load

COMMON = {"rope_theta": 10000.0, "rope_pairing": "half", "rope_frequencies": None, "rope_magnitude": 1.0}
HEADWISE = {
    **COMMON,
    "score_scale": None,
    "qk_norm": False,
    "norm_eps": 1e-6,
    "gate": "none",
    "bias": False,
    "output_bias": False,
}
DEFAULTS = {
    "gta": {"rope_theta": 10000.0, "rope_pairing": "half", "gate": "sigmoid", "bias": True},
    "mla": {**COMMON, "latent_norm": True, "norm_eps": 1e-6, "bias": False},
    **dict.fromkeys(("mha", "gqa", "gva", "gha"), HEADWISE),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults(name):
    module = load(name)
    config = module.Config(hidden_size=64, **module.small_sizes(8, 8))
    found = {field: getattr(config, field) for field in DEFAULTS[name]}
    assert found == DEFAULTS[name]
