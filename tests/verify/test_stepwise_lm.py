"""The stepwise language model agrees with the library for every mechanism, tied or not, padded, and in decoding."""

import numpy as np
import pytest

from gta_ref.verify.cases import Case
from gta_ref.verify.stepwise.dispatch import Stepwise
from gta_ref.verify.truth import draw, wide

LAYERS = {
    "gta": {"hidden_size": 12, "n_heads": 4, "head_dim": 4, "n_q": 2, "n_k": 1, "n_c": 1, "latent_dim": 4},
    "gha": {
        "hidden_size": 12,
        "n_heads": 4,
        "head_dim": 4,
        "n_q": 2,
        "n_k": 1,
        "n_v": 2,
        "qk_norm": True,
        "bias": True,
    },
    "mla": {"hidden_size": 12, "n_heads": 2, "latent_dim": 5, "nope_dim": 4, "rope_dim": 2, "value_dim": 3},
}
MODELS = {
    "tied": {"model": {"tied": True}},
    "untied": {"model": {"tied": False, "norm_eps": 0.1, "n_layers": 3}},
    "targets": {"model": {}, "targets": True, "mask": {"k_start": [0, 2]}},
    "decode": {"model": {"tied": False}, "chunks": [3, 1, 2]},
    "decode-padded": {"model": {}, "chunks": [1, 4, 1], "mask": {"k_start": [1, 3]}},
}


@pytest.mark.parametrize("mechanism", LAYERS)
@pytest.mark.parametrize("kind", MODELS)
def test_all_arrays_agree(kind, mechanism):
    sizes = {"vocab_size": 11, "n_layers": 2, "intermediate_size": 7} | MODELS[kind]["model"]
    settings = MODELS[kind] | {"mechanism": mechanism, "config": LAYERS[mechanism], "model": sizes}
    settings |= {"batch": 2, "length": 6}
    problem = draw(Case("none", "lm", ("core",), 5, settings), "float64")
    want = problem.compute(wide(problem.inputs))
    got = Stepwise()(wide(problem.inputs), {"level": "lm", **settings})
    assert want.keys() == got.keys()
    for name, x in want.items():
        assert got[name].shape == x.shape
        np.testing.assert_allclose(got[name], x, rtol=1e-10, atol=1e-12 * max(np.abs(x).max(), 1.0), err_msg=name)


def test_replaced_steps_reach_the_layers_of_a_model():
    settings = {"mechanism": "gha", "config": LAYERS["gha"], "batch": 1, "length": 4}
    settings |= {"model": {"vocab_size": 11, "n_layers": 2, "intermediate_size": 7}}
    problem = draw(Case("none", "lm", ("core",), 5, settings), "float64")
    right, wrong = (
        Stepwise(steps)(wide(problem.inputs), {"level": "lm", **settings})["logits"]
        for steps in ({}, {"scale": lambda self, d_k, d_v: 1.0})
    )
    assert np.abs(right - wrong).max() > 1e-3
