"""A model converted to GTA: equal where nothing is shared or cut, and refused where it cannot be converted."""

from dataclasses import replace

import numpy as np
import pytest

from gta_ref.convert.layer import Inputs, convert_layer
from gta_ref.convert.original import read_alone
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import convert
from gta_ref.lm import generate, model
from gta_ref.mechanisms import gqa, gta

RNG = np.random.default_rng


def original(dtype="float64", pairing="interleaved", n_k=2):
    attention = gqa.Config(24, 6, 4, n_k, rope_theta=500.0, rope_pairing=pairing)
    config = model.Config(50, 2, 32, attention, "gqa")
    params = model.init(config, RNG(0), dtype)
    return params, config, RNG(1).integers(0, 50, (3, 40))


def logits(params, config, ids):
    return model.forward(params, ids, config, need_saved=False)[0]


@pytest.mark.parametrize("gate", ["sigmoid", "none"])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("n_c", [1, 2])
def test_equal_where_nothing_is_shared_or_cut(gate, pairing, n_c):
    params, config, ids = original(pairing=pairing)
    new, made, reports = convert(params, config, Sizes(n_c=n_c, gate=gate), ids)
    structure = gta.structure(made.attention)
    assert (structure.n_q, structure.n_k, structure.n_v) == (6, 2, n_c)
    assert structure.cache_elements == gqa.structure(config.attention).cache_elements
    assert [report.maps for report in reports] == [[(i,) for i in range(6)]] * 2
    other = RNG(2).integers(0, 50, (2, 30))  # not the text by which it was converted
    np.testing.assert_allclose(logits(new, made, other), logits(params, config, other), atol=1e-10)


def test_wide_latents_are_exact_too():
    params, config, ids = original()
    new, made, _ = convert(params, config, Sizes(latent_dim=11), ids)
    np.testing.assert_allclose(logits(new, made, ids), logits(params, config, ids), atol=1e-10)


def test_heads_with_the_same_map_share_it_without_loss():
    """Heads 0, 2, 4 are copies of one query, and 1, 3, 5 of another; values differ."""
    params, config, ids = original(n_k=1)
    for i in range(2):
        w = params[f"layers.{i}.attention.w_q"].reshape(24, 6, 4)
        w[:, [2, 4]], w[:, [3, 5]] = w[:, [0]], w[:, [1]]
    new, made, reports = convert(params, config, Sizes(n_q=2), ids)
    assert [report.maps for report in reports] == [[(0, 2, 4), (1, 3, 5)]] * 2
    np.testing.assert_allclose(logits(new, made, ids), logits(params, config, ids), atol=1e-10)


def test_the_gate_starts_open_to_the_last_bit():
    params, config, ids = original("float32")
    for sizes in (Sizes(n_q=3, n_k=1, latent_dim=5), Sizes(latent_dim=3)):
        gated, with_gate, _ = convert(params, config, sizes, ids)
        linear, without, _ = convert(params, config, replace(sizes, gate="none"), ids)
        np.testing.assert_array_equal(logits(gated, with_gate, ids), logits(linear, without, ids))
        assert gated["layers.0.attention.w_p"].dtype == np.float32


def test_the_fit_is_better_than_one_head_for_all():
    """What the layer puts out is nearer to the original than with the medoid's query and unfitted outputs."""
    params, config, ids = original()
    layer = {name: params[f"layers.0.attention.{name}"] for name in gqa.param_shapes(config.attention)}
    x = RNG(3).standard_normal((4, 60, 24))
    wanted = gqa.forward(layer, x, config.attention, need_saved=False)[0]
    new, made, report = convert_layer(layer, config.attention, Sizes(n_q=2, n_k=1, latent_dim=4), Inputs(x))
    error = np.square(gta.forward(new, x, made, need_saved=False)[0] - wanted).sum()
    assert 0 < error < 0.6 * np.square(wanted).sum()
    assert 0 < report.keys_lost < 1
    assert 0 < report.values_lost < 1
    w_q = layer["w_q"].reshape(24, 6, 4)
    plain = {**layer, "w_q": np.repeat(w_q[:, [0, 3]], 3, axis=1).reshape(24, 24)}
    assert error < np.square(gqa.forward(plain, x, config.attention, need_saved=False)[0] - wanted).sum()


def test_tokens_that_are_read_alone_are_fitted_too():
    """A token alone sees its own value only, unlike all other tokens. To fit it costs the others little here."""
    params, config, _ = original()
    layer = {name: params[f"layers.0.attention.{name}"] for name in gqa.param_shapes(config.attention)}
    x, alone, others = (RNG(3 + i).standard_normal((*shape, 24)) for i, shape in enumerate([(4, 60), (60, 1), (60, 1)]))

    def error(new, made, x):
        wanted = gqa.forward(layer, x, config.attention, need_saved=False)[0]
        return np.square(gta.forward(new, x, made, need_saved=False)[0] - wanted).sum() / np.square(wanted).sum()

    sizes = Sizes(n_q=2, n_k=1, latent_dim=4)
    without, _, _ = convert_layer(layer, config.attention, sizes, Inputs(x))
    new, made, _ = convert_layer(layer, config.attention, sizes, Inputs(x), Inputs(alone))
    assert error(new, made, others) < 0.9 * error(without, made, others)
    assert error(new, made, x) < 1.1 * error(without, made, x)


def test_which_tokens_are_read_alone():
    ids = RNG(0).integers(0, 50, (2, 20))
    np.testing.assert_array_equal(read_alone(ids), [[ids[b, t]] for b in range(2) for t in (0, 8, 16)])


def test_layers_of_different_sizes():
    params, config, ids = original()
    new, made, _ = convert(params, config, [Sizes(n_q=2, n_k=1, latent_dim=6), Sizes()], ids)
    assert [(one.n_q, one.n_k, one.latent_dim) for one in made.layers] == [(2, 1, 6), (6, 2, 8)]
    whole = logits(new, made, ids[:1])
    caches = model.new_caches(made, 1, 40, "float64")
    parts = [model.decode(new, ids[:1, a:b], caches, made) for a, b in ((0, 17), (17, 18), (18, 40))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-10)
    assert generate.greedy(new, ids[:, :5], made, 3).shape == (3, 8)


def test_gradients_of_layers_of_different_sizes():
    params, config, ids = original()
    new, made, _ = convert(params, config, [Sizes(n_q=3, latent_dim=6), Sizes()], ids)
    _, saved = model.loss_forward(new, ids, made)
    grads = model.loss_backward(saved)
    rng = RNG(4)
    direction = {name: rng.standard_normal(w.shape) for name, w in new.items()}

    def loss(step):
        moved = {name: w + step * direction[name] for name, w in new.items()}
        return float(model.loss_forward(moved, ids, made)[0])

    slope = sum(np.vdot(grads[name], direction[name]) for name in new)
    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    "sizes, message",
    [
        (Sizes(n_q=4), "n_q=4 must divide n_heads=6"),
        (Sizes(n_q=3, n_k=2), "n_k=2 must divide n_q=3"),
        (Sizes(gate="silu"), "gate='silu' must be one of 'sigmoid', 'none'"),
        ([Sizes()], "sizes has 1 entries; expected one, or n_layers=2"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    params, config, ids = original()
    with pytest.raises(ValueError, match=message):
        convert(params, config, sizes, ids)


def test_layers_that_gta_cannot_be_made_of():
    params, config, ids = original()
    attention = replace(config.attention, score_scale=0.3)
    with pytest.raises(ValueError, match=r"score_scale=0\.3 must be None: only plain GQA layers"):
        convert(params, replace(config, attention=attention), Sizes(), ids)
    gta_config = model.Config(50, 1, 8, gta.Config(24, 6, 4, 2, 1, 1, 8))
    with pytest.raises(ValueError, match="GQA's Config"):
        convert(model.init(gta_config, RNG(0)), gta_config, Sizes(), ids)
