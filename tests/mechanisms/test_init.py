"""The scale of new weights: 1/√(inputs of the product), also where a matrix is not square; biases are 0 and gains 1."""

import numpy as np
import pytest

from gta_ref.mechanisms import NAMES, load

OPTIONS = {"gta": {}, "mla": {"query_latent_dim": 40, "bias": True}}


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_new_weights(name, rng):
    module = load(name)
    options = OPTIONS.get(name, {"bias": True, "output_bias": True, "qk_norm": True})
    config = module.Config(hidden_size=192, **module.small_sizes(8, 16), **options)
    for key, x in module.init(config, rng, "float64").items():
        if key.startswith("b_"):
            assert not x.any()
        elif key.startswith("norm"):
            assert (x == 1).all()
        else:
            # the standard deviation of n normal numbers is known to 1/√(2n); 5 times that
            assert abs(x.std() * np.sqrt(x.shape[-2]) - 1) < 5 / np.sqrt(2 * x.size), key
