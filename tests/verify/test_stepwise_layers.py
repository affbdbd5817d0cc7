"""The stepwise layers agree with the library in every option of every mechanism, in all stages and gradients."""

import numpy as np
import pytest

from gta_ref.verify.cases import Case
from gta_ref.verify.stepwise.dispatch import STEPS, Stepwise
from gta_ref.verify.truth import draw, wide

SIZES = {
    "gta": {"hidden_size": 20, "n_heads": 8, "head_dim": 4, "n_q": 4, "n_k": 2, "n_c": 2, "latent_dim": 4},
    "mha": {"hidden_size": 20, "n_heads": 4, "head_dim": 6},
    "gqa": {"hidden_size": 20, "n_heads": 4, "head_dim": 6, "n_k": 2},
    "gva": {"hidden_size": 20, "n_heads": 6, "head_dim": 4, "n_q": 3},
    "gha": {"hidden_size": 20, "n_heads": 12, "head_dim": 4, "n_q": 4, "n_k": 2, "n_v": 6},
    "mla": {"hidden_size": 20, "n_heads": 3, "latent_dim": 7, "nope_dim": 4, "rope_dim": 6, "value_dim": 5},
}
SHARED = [
    {},
    {"gate": "sigmoid", "bias": True},
    {"gate": "silu"},
    {"gate": "relu2"},
    {"gate": "none", "bias": False},
    {"rope_pairing": "interleaved", "rope_theta": 50.0},
    {"rope_pairing": "none"},
]
NOT_GTA = [
    {"score_scale": 0.7},
    {"rope_frequencies": [0.5], "rope_magnitude": 1.3},
    {"rope_frequencies": [0.5, 0.02], "rope_pairing": "interleaved"},
]
HEADWISE = [{"output_bias": True}, {"qk_norm": True, "norm_eps": 0.1}, {"qk_norm": True, "bias": True, "gate": "silu"}]
MLA = [
    {"query_latent_dim": 5, "bias": True, "gate": "sigmoid"},
    {"query_latent_dim": 5, "norm_eps": 0.1},
    {"query_latent_dim": 5, "latent_norm": False},
    {"rope_dim": 0},
    {"rope_dim": 0, "query_latent_dim": 5, "bias": True},
]


def options(mechanism):
    if mechanism == "gta":
        return [*SHARED, {"decoder_residual": True}]
    return [*SHARED, *NOT_GTA, *(MLA if mechanism == "mla" else HEADWISE)]


def differences(settings, level="layer"):
    """Largest difference of every array from the library's, relative to its largest element or, if that is less, 1.

    Some gradients are 0 apart from rounding, such as that of a bias of the keys without RoPE.
    """
    problem = draw(Case("none", level, ("core",), 7, settings), "float64")
    want = problem.compute(wide(problem.inputs))
    got = Stepwise()(wide(problem.inputs), {"level": level, **settings})
    assert not want.keys() - got.keys()
    assert all(got[name].shape == x.shape for name, x in want.items())
    return {name: np.abs(got[name] - x).max() / max(np.abs(x).max(), 1.0) for name, x in want.items()}


@pytest.mark.parametrize("mechanism", SIZES)
@pytest.mark.parametrize("chunks", [None, [3, 1, 2, 1]], ids=["whole", "decode"])
def test_every_option_agrees(mechanism, chunks):
    for option in options(mechanism):
        for mask in ({}, {"k_start": [0, 3]}, {"k_start": [1, 0], "k_stop": [7, 2]}):
            if chunks and "k_stop" in mask:
                continue
            settings = {"mechanism": mechanism, "config": SIZES[mechanism] | option, "batch": 2, "length": 7}
            settings |= {"mask": mask} | ({"chunks": chunks} if chunks else {})
            found = differences(settings)
            assert max(found.values()) < 1e-12, (option, mask, found)


@pytest.mark.parametrize("chunks", [None, [3, 1, 2, 1]], ids=["whole", "decode"])
def test_the_other_way_of_mla_agrees(chunks):
    for option in options("mla"):
        settings = {"mechanism": "mla", "config": SIZES["mla"] | option, "batch": 2, "length": 7, "mask": {}}
        settings |= {"chunks": chunks, "absorb": False} if chunks else {"absorb": True}
        found = differences(settings)
        assert max(found.values()) < 1e-12, (option, found)


def test_every_layer_has_steps():
    assert SIZES.keys() | {"attention", "lm"} == STEPS.keys()
