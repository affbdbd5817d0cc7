"""The language model: gradients, decoding, the tied head, sizes and errors."""

import dataclasses

import numpy as np
import pytest

from gta_ref.core import Mask
from gta_ref.lm import block, generate, model
from gta_ref.lm.small import config as small
from gta_ref.mechanisms import gqa, gta
from gta_ref.verify.gradcheck import elementwise_error

CONFIG = model.Config(11, 2, 6, gta.Config(4, 4, 2, n_q=2, n_k=1, n_c=1, latent_dim=4))
UNTIED = dataclasses.replace(CONFIG, tied=False)


def make(config, rng, dtype="float64"):
    params = model.init(config, rng, dtype)
    return {name: p + (0.3 * rng.standard_normal(p.shape)).astype(dtype) for name, p in params.items()}


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_every_gradient(config, rng):
    config = dataclasses.replace(config, n_layers=1)
    params = make(config, rng)
    ids = rng.integers(0, 11, (2, 4))
    ids[0, 1] = ids[0, 0]  # a row of the embedding that is used twice
    mask = Mask(k_start=[0, 1])
    logits, saved = model.forward(params, ids, config, mask=mask)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(dlogits, saved)
    assert list(grads) == list(params)
    errors = elementwise_error(
        lambda p: model.forward(p, ids, config, mask=mask, need_saved=False)[0], params, dlogits, grads, step=1e-4
    )
    # the step is smaller than usual: the RMSNorm of a short vector is steep, and the method's error grows as h⁴
    assert max(errors.values()) <= 1e-8, errors


GQA = model.Config(11, 2, 6, gqa.Config(4, 4, 2, 2), "gqa")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", [CONFIG, GQA], ids=["gta", "gqa"])
def test_gradients_of_the_attention_and_norms_alone(config, tied, dtype, rng, monkeypatch):
    config = dataclasses.replace(config, tied=tied)
    params, ids = make(config, rng, dtype), rng.integers(0, 11, (2, 5))
    logits, saved = model.forward(params, ids, config)
    dlogits = rng.standard_normal(logits.shape).astype(dtype)
    every = model.backward(dlogits, saved)
    for module in (block, model):  # the gradients of the others are not even computed
        monkeypatch.setattr(module, "linear_backward", None)
    monkeypatch.setattr(model, "embedding_backward", None)
    some = model.backward(dlogits, saved, frozen=True)
    trained = [name for name in params if ".attention." in name or name.rpartition(".")[2].startswith("norm")]
    assert list(some) == trained
    assert len(trained) == 1 + 2 * (2 + len(config.module.param_shapes(config.attention)))
    for name in trained:
        np.testing.assert_array_equal(some[name], every[name], err_msg=name)


def test_loss_is_the_mean_over_next_tokens(rng):
    params, ids = make(CONFIG, rng), rng.integers(0, 11, (2, 5))
    loss, saved = model.loss_forward(params, ids, CONFIG)
    logits, _ = model.forward(params, ids, CONFIG)
    terms = []
    for b in range(2):
        for n in range(4):
            row = logits[b, n] - logits[b, n].max()
            terms.append(np.log(np.exp(row).sum()) - row[ids[b, n + 1]])
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-12)
    targets = np.full((2, 5), -100)
    targets[1, 2] = ids[1, 3]
    one, _ = model.loss_forward(params, ids, CONFIG, targets=targets)
    assert float(one) == pytest.approx(terms[4 + 2], rel=1e-12)
    # a step against the gradient lowers the loss by as much as the gradient predicts
    grads = model.loss_backward(saved)
    step = 1e-6
    lower, _ = model.loss_forward({name: p - step * grads[name] for name, p in params.items()}, ids, CONFIG)
    predicted = step * sum(float((g * g).sum()) for g in grads.values())
    assert float(loss - lower) == pytest.approx(predicted, rel=1e-3)


@pytest.mark.parametrize("chunks", [[1] * 6, [6], [4, 1, 1]], ids=str)
def test_decode_continues_forward(chunks, rng):
    params, ids, k_start = make(UNTIED, rng), rng.integers(0, 11, (2, 6)), [0, 3]
    want, _ = model.forward(params, ids, UNTIED, mask=Mask(k_start=k_start))
    caches = model.new_caches(UNTIED, 2, 6, "float64", k_start)
    stops = np.cumsum(chunks)
    steps = [model.decode(params, ids[:, s - n : s], caches, UNTIED) for n, s in zip(chunks, stops, strict=True)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_the_last_logits_alone_are_the_last_of_all(config, rng):
    params, ids = make(config, rng), rng.integers(0, 11, (2, 6))
    want = model.forward(params, ids, config, need_saved=False)[0][:, -1:]
    got, saved = model.forward(params, ids, config, need_saved=False, last=True)
    caches = model.new_caches(config, 2, 6, "float64")
    model.decode(params, ids[:, :2], caches, config, last=True)
    for found in (got, model.decode(params, ids[:, 2:], caches, config, last=True)):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-12)
    assert saved is None


def test_greedy_is_the_argmax_of_the_full_forward(rng):
    params = make(CONFIG, rng)
    ids = np.array([[0, 0, 3], [5, 1, 2]])
    got = generate.greedy(params, ids, CONFIG, 4, k_start=[2, 0])
    want = ids
    for _ in range(4):
        logits, _ = model.forward(params, want, CONFIG, mask=Mask(k_start=[2, 0]))
        want = np.concatenate([want, logits[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(generate.greedy(params, ids, CONFIG, 0), ids)


@pytest.mark.parametrize("name, parameters", [("gta-1b", 1_128_766_208), ("gqa-1b", 1_128_669_440)])
def test_the_published_models_have_the_published_number_of_parameters(name, parameters):
    shapes = model.param_shapes(model.Config.preset(name))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def test_init_lets_the_embedding_through():
    """A tied head begins with logits of standard deviation 1; what the 2L sublayers add is divided by √(2L)."""
    config = small("gta")
    params = model.init(config, np.random.default_rng(0))
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 64))
    h, (logits, _) = config.hidden_size, model.forward(params, ids, config)
    for name, variance in (
        ("embed", 1 / h),
        ("layers.0.attention.w_o", 1 / h / (2 * config.n_layers)),
        ("layers.3.mlp.w_down", 1 / config.intermediate_size / (2 * config.n_layers)),
        ("layers.3.mlp.w_up", 1 / h),
    ):
        # four standard errors of the variance of n normal numbers
        assert params[name].var() == pytest.approx(variance, rel=4 * (2 / params[name].size) ** 0.5), name
    assert logits.std() == pytest.approx(1, rel=0.1)


def test_init_and_float32(rng):
    params = model.init(UNTIED, rng, "float32")
    assert {name: p.shape for name, p in params.items()} == model.param_shapes(UNTIED)
    assert not np.array_equal(params["layers.0.attention.w_q"], params["layers.1.attention.w_q"])
    loss, saved = model.loss_forward(params, rng.integers(0, 11, (2, 5)), UNTIED)
    assert loss.dtype == np.float32
    assert {g.dtype for g in model.loss_backward(saved).values()} == {np.dtype(np.float32)}


def test_a_failed_decode_leaves_all_caches(rng):
    params, ids = make(CONFIG, rng), rng.integers(0, 11, (2, 3))
    caches = model.new_caches(CONFIG, 2, 4, "float64")
    caches[1] = model.new_caches(CONFIG, 2, 2, "float64")[0]  # the second layer has less room
    with pytest.raises(ValueError, match="capacity=2 is too small: 0 tokens are held and 3 more came"):
        model.decode(params, ids, caches, CONFIG)
    assert [cache.length for cache in caches] == [0, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, i: model.forward(p, i[0], CONFIG), r"ids has shape \(3,\); expected \(B, N\)"),
        (lambda p, i: model.forward(p, i + 11, CONFIG), "ids go from 11 to 11; expected 0 to 10"),
        (lambda p, i: model.forward({}, i, CONFIG), "params: missing embed, layers.0"),
        (lambda p, i: model.forward({**p, "head": p["embed"].T}, i, CONFIG), "params: unknown head"),
        (
            lambda p, i: model.forward({**p, "norm": p["norm"].astype("float32")}, i, CONFIG),
            r"params\['norm'\] has dtype float32; expected float64",
        ),
        (lambda p, i: model.decode(p, i, [], CONFIG), "caches has 0 entries; expected n_layers=2"),
        (lambda p, i: model.forward(p, i, CONFIG, last=True), "last=True leaves nothing for backward"),
        (
            lambda p, i: model.backward(np.zeros((2, 3, 11)), model.forward(p, i, CONFIG)[1], frozen=1),  # type: ignore[arg-type]
            "frozen=1 must be True or False",
        ),
        (lambda p, i: model.backward(i, None), "saved is None; expected what forward returns"),
        (lambda p, i: generate.greedy(p, i[:, :0], CONFIG, 2), r"ids has shape \(2, 0\); expected \(B, N\) with at"),
        (lambda p, i: generate.greedy(p, i, CONFIG, -1), "n_tokens=-1 must be a whole number of at least 0"),
        (lambda p, i: dataclasses.replace(CONFIG, n_layers=0), "n_layers=0 must be a whole number of at least 1"),
        (
            lambda p, i: dataclasses.replace(CONFIG, attention=3),
            r"attention is a builtins\.int; expected the Config of",
        ),
        (lambda p, i: dataclasses.replace(CONFIG, mechanism="rnn"), "mechanism='rnn' must be one of"),
        (lambda p, i: dataclasses.replace(CONFIG, norm_eps=0), "norm_eps=0 must be a finite number above 0"),
        (lambda p, i: dataclasses.replace(CONFIG, tied=None), "tied=None must be True or False"),  # type: ignore[arg-type]
        (lambda p, i: model.Config.preset("gta-7b"), "preset='gta-7b' must be one of 'gta-1b', 'gqa-1b'"),
    ],
)
def test_wrong_arguments(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(make(CONFIG, rng), np.zeros((2, 3), int))
