"""The language model around every mechanism: gradients of the whole model, and decoding with its caches."""

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.lm import model
from gta_ref.mechanisms import gha, gqa, gta, gva, mha, mla
from gta_ref.verify.gradcheck import directional_error
from tests.support import small_configs

ATTENTION = {
    **small_configs(hidden_size=16, n_heads=8, head_dim=4),
    "gta": gta.Config(16, 4, 4, n_q=2, n_k=1, n_c=1, latent_dim=4),
    "mha": mha.Config(16, 4, 4),
    "gqa": gqa.Config(16, 4, 4, n_k=2),
    "mla": mla.Config(16, 4, latent_dim=6, nope_dim=4, rope_dim=2, value_dim=4, query_latent_dim=5),
    "gva": gva.Config(16, 4, 4, n_q=2),
    "gha": gha.Config(16, 4, 4, n_q=2, n_k=1, n_v=2),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_loss_gradient(name, rng):
    config = model.Config(11, 2, 12, ATTENTION[name], name)
    params = model.init(config, rng, "float64")
    ids = rng.integers(0, 11, (2, 6))
    loss, saved = model.loss_forward(params, ids, config)
    grads = model.loss_backward(saved)
    weight = np.asarray(rng.standard_normal())

    def loss_of(arrays):
        return model.loss_forward(arrays, ids, config)[0]

    scaled = {key: weight * grad for key, grad in grads.items()}
    # rounding leaves 1e-16 / h = 1e-12 of the loss in every difference; the method's own error is O(h⁴), and the
    # step is smaller than usual because the RMSNorm of a short embedding is steep
    assert directional_error(loss_of, params, weight, scaled, rng, step=1e-4) <= 1e-8


@pytest.mark.parametrize("name", ATTENTION)
def test_decode_continues_forward(name, rng):
    config = model.Config(11, 2, 12, ATTENTION[name], name)
    params = model.init(config, rng, "float64")
    ids = rng.integers(0, 11, (2, 6))
    k_start = np.array([0, 2])
    want, _ = model.forward(params, ids, config, mask=Mask(k_start=k_start))
    caches = model.new_caches(config, 2, 6, "float64", k_start)
    steps = [model.decode(params, ids[:, t : t + n], caches, config) for t, n in ((0, 3), (3, 1), (4, 2))]
    # logits of size 1, one order of float64 sums against another
    np.testing.assert_allclose(np.concatenate(steps, axis=1), want, rtol=0, atol=1e-12)
