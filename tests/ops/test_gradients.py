"""Every operation's backward, element by element, with random cotangents in float64."""

from typing import Any

import numpy as np
import pytest

from gta_ref import ops
from gta_ref.verify.gradcheck import elementwise_error

# central differences with h = 1e-3 and the h² error removed: rounding in float64 leaves about 1e-16 / h = 1e-13 of
# the value, and the h⁴ term about 1e-12 of the fifth derivative; 1e-9 allows for large values and derivatives
BOUND = 1e-9


def visible():
    mask = np.random.default_rng(1).random((2, 4, 5)) < 0.6
    mask[0, 1] = False  # a row that sees nothing
    return mask


TARGETS = np.array([[1, 4, -100], [0, -100, 2]])
TEACHER = 2 * np.random.default_rng(2).standard_normal((2, 3, 5))

# name: (the inputs' shapes, forward of named arrays → (y, saved), backward → gradients in the order of the inputs)
CASES: dict[str, Any] = {
    "linear": (
        dict(x=(2, 3, 4), w=(4, 5), b=(5,)),
        lambda a: ops.linear_forward(a["x"], a["w"], a["b"]),
        ops.linear_backward,
    ),
    "softmax": (dict(x=(2, 4, 5)), lambda a: ops.softmax_forward(a["x"]), ops.softmax_backward),
    "softmax_masked": (dict(x=(2, 4, 5)), lambda a: ops.softmax_forward(a["x"], visible()), ops.softmax_backward),
    "rmsnorm": (dict(x=(2, 3, 6), g=(6,)), lambda a: ops.rmsnorm_forward(a["x"], a["g"], 1e-3), ops.rmsnorm_backward),
    "swiglu": (dict(a=(3, 4), b=(3, 4)), lambda a: ops.swiglu_forward(a["a"], a["b"]), ops.swiglu_backward),
    "decoder": (
        dict(z=(2, 3, 4, 5), w=(3, 5, 10)),
        lambda a: ops.decoder_forward(a["z"], a["w"]),
        ops.decoder_backward,
    ),
    "decoder_residual": (
        dict(z=(2, 3, 4, 5), w=(3, 5, 10)),
        lambda a: ops.decoder_forward(a["z"], a["w"], residual=True),
        ops.decoder_backward,
    ),
    "embedding": (
        dict(table=(6, 3)),
        lambda a: ops.embedding_forward(np.array([[1, 5, 1], [0, 1, 2]]), a["table"]),
        ops.embedding_backward,
    ),
    "cross_entropy": (
        dict(logits=(2, 3, 5)),
        lambda a: ops.cross_entropy_forward(a["logits"], TARGETS),
        ops.cross_entropy_backward,
    ),
    "kl": (dict(logits=(2, 3, 5)), lambda a: ops.kl_forward(a["logits"], TEACHER), ops.kl_backward),
    **{
        f"gate_{kind}": (dict(a=(4, 6)), lambda a, kind=kind: ops.gate_forward(a["a"], kind), ops.gate_backward)
        for kind in ("sigmoid", "silu", "relu2", "none")
    },
    **{
        f"rope_{pairing}": (
            dict(x=(2, 3, 4, 6)),
            lambda a, pairing=pairing: ops.rope_forward(a["x"], *ops.rope_angles(np.arange(4) * 3, 6), pairing),
            ops.rope_backward,
        )
        for pairing in ("half", "interleaved", "none")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_gradient(name, rng):
    shapes, forward, backward = CASES[name]
    inputs = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    if name == "gate_relu2":  # its second derivative jumps at 0, so differences across 0 measure another slope
        inputs["a"] = np.where(np.abs(inputs["a"]) < 0.01, 0.5, inputs["a"])
    before = {key: x.copy() for key, x in inputs.items()}
    y, saved = forward(inputs)
    cotangent = rng.standard_normal(np.shape(y))
    grads = backward(cotangent, saved)
    grads = dict(zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True))
    errors = elementwise_error(lambda a: forward(a)[0], inputs, cotangent, grads)
    assert max(errors.values()) <= BOUND, errors
    for key, x in inputs.items():
        np.testing.assert_array_equal(x, before[key], err_msg=f"{name} wrote into {key}")
        assert grads[key].shape == x.shape


def test_softmax_gradient_through_lse(rng):
    """Through y and lse together: lse has a gradient of its own."""
    x, mask = rng.standard_normal((2, 4, 5)), visible()
    dy, dlse = rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 4))
    sees = mask.any(axis=-1)

    def both(a):
        y, lse, _ = ops.softmax_lse_forward(a["x"], mask)
        return np.concatenate([y.ravel(), lse[sees]])

    _, lse, saved = ops.softmax_lse_forward(x, mask)
    dx = ops.softmax_backward(dy, saved, dlse)
    errors = elementwise_error(both, {"x": x}, np.concatenate([dy.ravel(), dlse[sees]]), {"x": dx})
    assert errors["x"] <= BOUND
    assert np.isneginf(lse[0, 1])
    assert not dx[0, 1].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_gradient_of_linear_by_its_input_alone(dtype, bias, rng):
    """To the last bit the first result of linear_backward, which computes the others too."""
    x, w, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 3, 4), (4, 5), (5,), (2, 3, 5)))
    _, saved = ops.linear_forward(x, w, b if bias else None)
    dx = ops.linear_backward_input(dy, saved)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, ops.linear_backward(dy, saved)[0])


def test_linear_without_bias_has_no_bias_gradient(rng):
    _, saved = ops.linear_forward(rng.standard_normal((3, 4)), rng.standard_normal((4, 5)))
    assert ops.linear_backward(rng.standard_normal((3, 5)), saved)[2] is None
