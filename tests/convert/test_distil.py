"""The two losses of healing: what they are, their gradients, and what they leave alone."""

import numpy as np
import pytest
from scipy import special

from gta_ref.convert.distil import by_layers, end_to_end
from gta_ref.convert.original import Original
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.whole import convert
from gta_ref.lm import block, model
from gta_ref.mechanisms import gqa, gta
from gta_ref.threads import set_threads
from gta_ref.verify.gradcheck import subset_error

RNG = np.random.default_rng
LOSSES = {"by_layers": by_layers, "end_to_end": end_to_end}
CUT = [Sizes(n_q=2, n_k=1, latent_dim=5), Sizes(n_q=3, n_k=1, latent_dim=6)]


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


@pytest.fixture
def threads():
    yield set_threads
    set_threads(None)


def models(sizes, dtype="float64"):
    """A converted model with its configuration, the original, and a batch of five sequences."""
    config = model.Config(50, 2, 32, gqa.Config(24, 6, 4, 2, rope_theta=500.0), "gqa")
    params = model.init(config, RNG(0), dtype)
    new, made, _ = convert(params, config, sizes, RNG(1).integers(0, 50, (3, 40)))
    return new, made, Original(params, config), RNG(2).integers(0, 50, (5, 12))


def is_trained(name, loss):
    return ".attention." in name or (loss is end_to_end and name.rpartition(".")[2].startswith("norm"))


def perturbed(dtype="float64"):
    """The models with every parameter of the converted one moved, the gate's and the gains of the norms among them."""
    new, made, original, ids = models(CUT, dtype)
    rng = RNG(3)
    new = {name: w + (0.1 * rng.standard_normal(w.shape)).astype(dtype) for name, w in new.items()}
    return new, made, original, ids


def rms_normed(x, gain, eps):
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps) * gain


def errors(new, made, original, ids):
    """Weighted squares of the errors of all layers, and of their outputs, (2, L), straight from the formula."""
    params, config = original
    x, found = params["embed"][ids], []
    for i in range(config.n_layers):
        layer = block.select(params, f"layers.{i}.")
        normed = rms_normed(x, layer["norm_1"], config.norm_eps)
        wanted, _ = gqa.forward(block.select(layer, "attention."), normed, config.layer(i))
        mine, _ = gta.forward(block.select(new, f"layers.{i}.attention."), normed, made.layer(i))
        omega = 1 / (np.square(x + wanted).mean(axis=-1) + config.norm_eps)
        found.append([np.einsum("bn,bnh,bnh->", omega, a, a) for a in (mine - wanted, wanted)])
        x, _ = block.forward(layer, x, gqa, config.layer(i), config.norm_eps)
    return np.transpose(found)


def alone(ids):
    """Tokens 0, 8, ... of every sequence, each a sequence of its own."""
    return np.array([[one[i]] for one in ids for i in range(0, len(one), 8)])


def defined_by_layers(*of):
    *models, ids = of
    lost, whole = errors(*models, ids) + 8 * errors(*models, alone(ids))
    return (lost / whole).sum()


def defined_end_to_end(*of):
    """The divergence by SciPy, and the errors at tokens alone."""
    new, made, original, ids = of
    p, q = (
        special.softmax(model.forward(some, ids, config, need_saved=False)[0], axis=-1)
        for some, config in ((original.params, original.config), (new, made))
    )
    lost, _ = errors(new, made, original, alone(ids))
    return special.rel_entr(p, q).sum() / ids.size + 8 * lost.sum() / (alone(ids).size * made.hidden_size)


@pytest.mark.parametrize("sizes", [CUT, Sizes(n_q=2, latent_dim=4, gate="none")], ids=["gated", "not gated"])
def test_the_losses_are_those_defined(sizes):
    of = models(sizes)
    for loss, defined in ((by_layers, defined_by_layers), (end_to_end, defined_end_to_end)):
        expected = defined(*of)
        assert expected > 0.01
        assert loss(*of)[0] == pytest.approx(expected, rel=1e-12)


def test_the_gradient_against_finite_differences(loss):
    """Through all that is trained. Every element is moved, in one of 40 random directions.

    The error of the differences has a part of order h⁴, and one of rounding, 1e-16 / h of the loss. With h = 3e-4 both
    are about 1e-11 of the terms of a direction.
    """
    new, made, original, ids = perturbed()
    _, grads = loss(new, made, original, ids)
    trained = {name: w for name, w in new.items() if is_trained(name, loss)}
    assert not any(np.abs(w).max() == 0 for w in grads.values())
    cotangent = RNG(4).standard_normal()
    error = subset_error(
        lambda moved: np.array(loss({**new, **moved}, made, original, ids)[0]),
        trained,
        np.array(cotangent),
        {name: cotangent * grad for name, grad in grads.items()},
        RNG(5),
        subsets=40,
        step=3e-4,
    )
    assert error <= 1e-9


def test_an_exact_conversion_has_lost_nothing(loss):
    """The error of an output is rounding, below 1e-12 of it, of which the losses are squares; the sum of the divergence
    has an error of its own, of a few units of 1e-16 times the logarithms."""
    found, grads = loss(*models(Sizes()))
    assert abs(found) <= (1e-24 if loss is by_layers else 1e-14)
    _, usual = loss(*perturbed())
    largest = max(np.abs(grad).max() for grad in usual.values())
    assert max(np.abs(grad).max() for grad in grads.values()) <= 1e-11 * largest


def test_any_number_of_threads_gives_the_same(loss, threads):
    """To rounding, whether parts have different numbers of sequences, one each, or there are more threads than
    sequences; and the same number of threads gives the same bits."""
    of = perturbed()
    threads(1)
    expected, expected_grads = loss(*of)
    for n in (2, 3, 5, 8):
        threads(n)
        found, grads = loss(*of)
        assert found == pytest.approx(expected, rel=1e-13)
        assert grads.keys() == expected_grads.keys()
        for name, grad in expected_grads.items():
            np.testing.assert_allclose(grads[name], grad, rtol=0, atol=1e-13 * np.abs(grad).max(), err_msg=name)
        again = loss(*of)
        assert again[0] == found
        for name, grad in grads.items():
            np.testing.assert_array_equal(again[1][name], grad)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_has_a_gradient(loss, dtype):
    new, made, original, ids = perturbed(dtype)
    _, grads = loss(new, made, original, ids)
    assert {name: (grad.shape, grad.dtype) for name, grad in grads.items()} == {
        name: (w.shape, w.dtype) for name, w in new.items() if is_trained(name, loss)
    }


def test_nothing_is_written_to(loss, threads):
    new, made, original, ids = perturbed()
    before = [{name: w.copy() for name, w in of.items()} for of in (new, original.params, {"ids": ids})]
    threads(2)
    loss(new, made, original, ids)
    for of, was in zip((new, original.params, {"ids": ids}), before, strict=True):
        for name, w in was.items():
            np.testing.assert_array_equal(of[name], w, err_msg=name)


@pytest.mark.parametrize("i", [0, 1])
def test_layers_do_not_wait_for_one_another(i):
    """What a layer loses, and its gradient, are the same whatever the rest of the converted model is."""
    new, made, original, ids = perturbed()
    rng = RNG(6)
    own = [name for name in new if name.startswith(f"layers.{i}.attention.")]
    other = {name: new[name] if name in own else rng.standard_normal(w.shape) for name, w in new.items()}
    (loss, grads), (other_loss, other_grads) = (by_layers(some, made, original, ids) for some in (new, other))
    assert other_loss != loss
    for name, grad in grads.items():
        assert np.array_equal(other_grads[name], grad) == (name in own), name
    moved = {name: new[name] + 0.1 for name in own}
    more, other_more = (by_layers({**some, **moved}, made, original, ids)[0] for some in (new, other))
    assert other_more - other_loss == pytest.approx(more - loss, rel=1e-9)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((12,), r"ids has shape \(12,\); expected \(B, N\)"),
        ((0, 12), r"ids has shape \(0, 12\); expected at least one token"),
        ((5, 0), r"ids has shape \(5, 0\); expected at least one token"),
    ],
)
def test_a_batch_without_tokens_is_refused(loss, shape, message):
    new, made, original, _ = models(CUT)
    with pytest.raises(ValueError, match=message):
        loss(new, made, original, np.zeros(shape, int))
