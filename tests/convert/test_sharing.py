"""What it costs to share maps in one layer alone: what the conversion of a whole model, exact elsewhere, costs."""

import dataclasses

import numpy as np
import pytest

from gta_ref.convert import judge
from gta_ref.convert.original import Original
from gta_ref.convert.sharing import costs
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import convert
from gta_ref.lm import model
from tests.convert import tiny

CONFIG = dataclasses.replace(tiny.CONFIG, n_layers=3)


def original(dtype="float64"):
    return Original(model.init(CONFIG, np.random.default_rng(1), dtype), CONFIG)


def texts():
    """The text to fit to, and the one to judge by, of different sizes."""
    return tiny.windows(3, 40, held_out=False), tiny.windows(2, 50, held_out=True)


@pytest.mark.parametrize(
    "sizes", [Sizes(n_q=3), Sizes(n_q=2, n_k=1, latent_dim=6, gate="none")], ids=["maps", "maps, keys and latents"]
)
def test_as_in_a_whole_model_that_is_exact_elsewhere(sizes):
    """The other layers are exact to rounding, 1e-12 of the residual stream."""
    before, (ids, judged) = original(), texts()
    found = list(costs(before, sizes, ids, judged))
    for i, cost in enumerate(found):
        params, config, _ = convert(*before, [sizes if j == i else Sizes() for j in range(3)], ids)
        assert cost == pytest.approx(judge.beside(params, config, before, judged).divergence, rel=1e-8)
    assert len(found) == 3
    assert min(found) > 1e-3


def test_nothing_is_lost_where_maps_are_the_same():
    """In the layer in the middle, heads 0, 2, 4 are copies of one query, and 1, 3, 5 of another."""
    attention = dataclasses.replace(CONFIG.attention, n_k=1)
    config = dataclasses.replace(CONFIG, attention=attention)
    params = model.init(config, np.random.default_rng(1), "float64")
    w = params["layers.1.attention.w_q"].reshape(24, 6, 4)
    w[:, [2, 4]], w[:, [3, 5]] = w[:, [0]], w[:, [1]]
    first, middle, last = costs(Original(params, config), Sizes(n_q=2), *texts())
    assert abs(middle) <= 1e-14
    assert min(first, last) > 1e-3


def test_one_layer_after_the_other():
    """So that progress can be shown, and nothing is changed."""
    before = original("float32")
    kept = {name: w.copy() for name, w in before.params.items()}
    one_by_one = costs(before, Sizes(n_q=3), *texts())
    assert [next(one_by_one), *one_by_one] == list(costs(before, Sizes(n_q=3), *texts()))
    for name, w in before.params.items():
        np.testing.assert_array_equal(w, kept[name])
