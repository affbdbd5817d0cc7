"""What the operations compute, compared with the scalar formula; corner cases first."""

import math

import ml_dtypes
import numpy as np
import pytest
from scipy import special

from gta_ref import ops
from gta_ref.ops.arrays import as_dtype, widen


def test_softmax_of_rows_that_see_nothing_of_empty_rows_and_of_huge_scores():
    x = np.array([[1e4, 1e4 - 1, -1e4], [1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    visible = np.array([[True, True, True], [False, True, False], [False, False, False]])
    y, lse, _ = ops.softmax_lse_forward(x, visible)
    a = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(y, [[a, 1 - a, 0], [0, 1, 0], [0, 0, 0]], rtol=1e-15)
    np.testing.assert_allclose(lse, [1e4 + math.log1p(math.exp(-1)), 2, -np.inf], rtol=1e-15)
    y, lse, _ = ops.softmax_lse_forward(np.zeros((2, 0)))
    assert y.shape == (2, 0)
    assert np.isneginf(lse).all()


def test_softmax_does_not_hide_nan():
    y, lse, _ = ops.softmax_lse_forward(np.array([[1.0, np.nan]]))
    assert np.isnan(y).all()
    assert np.isnan(lse).all()
    y, lse, _ = ops.softmax_lse_forward(np.array([[1.0, np.nan]]), np.array([[True, False]]))
    np.testing.assert_array_equal(y, [[1, 0]])
    np.testing.assert_array_equal(lse, [1])


@pytest.mark.parametrize(
    "pairing, partner", [("half", lambda t: (t, t + 3)), ("interleaved", lambda t: (2 * t, 2 * t + 1))]
)
def test_rope_turns_each_pair_by_its_angle(rng, pairing, partner):
    x = rng.standard_normal((4, 6))
    positions = np.array([0, 1, 7, 1000])
    y, _ = ops.rope_forward(x, *ops.rope_angles(positions, 6, theta=100.0), pairing)
    for n, position in enumerate(positions):
        for t in range(3):
            a, b = partner(t)
            turned = complex(x[n, a], x[n, b]) * np.exp(1j * position * 100.0 ** (-2 * t / 6))
            np.testing.assert_allclose([y[n, a], y[n, b]], [turned.real, turned.imag], rtol=1e-12, atol=1e-14)


def test_rope_scores_depend_on_the_distance_alone(rng):
    q, k = rng.standard_normal((2, 8))

    def score(i, j):
        (qi, _), (kj, _) = (ops.rope_forward(v[None], *ops.rope_angles(np.array([p]), 8)) for v, p in ((q, i), (k, j)))
        return float(qi[0] @ kj[0])

    assert score(5, 2) == pytest.approx(score(105, 102), rel=1e-12)
    assert score(5, 2) != pytest.approx(score(5, 3), rel=1e-3)


def test_rope_angles_are_rounded_once():
    """Angles in float32 would be off by 1e-3 at a position of 100,000."""
    cos, sin = ops.rope_angles(np.array([100_001]), 64, dtype=np.float32)
    exact_cos, exact_sin = ops.rope_angles(np.array([100_001]), 64)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_array_equal(cos, exact_cos.astype(np.float32))
    np.testing.assert_array_equal(sin, exact_sin.astype(np.float32))


def test_rmsnorm(rng):
    x, g = rng.standard_normal((3, 5)), rng.standard_normal(5)
    y, _ = ops.rmsnorm_forward(x, g, eps=0.1)
    for row, got in zip(x, y, strict=True):
        want = [g[i] * row[i] / math.sqrt(sum(v * v for v in row) / 5 + 0.1) for i in range(5)]
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_gates():
    a = np.array([-800.0, -40.0, -1.0, 0.0, 2.0, 800.0])
    sigma = np.array([0.0 if v < -700 else 1 / (1 + math.exp(-v)) for v in a])
    np.testing.assert_allclose(ops.gate_forward(a, "sigmoid")[0], sigma, rtol=1e-15, atol=1e-300)
    np.testing.assert_allclose(ops.gate_forward(a, "silu")[0], a * sigma, rtol=1e-15, atol=1e-300)
    np.testing.assert_array_equal(ops.gate_forward(a, "relu2")[0], [0, 0, 0, 0, 4, 640000])
    np.testing.assert_array_equal(ops.gate_forward(a, "none")[0], a)


def test_swiglu():
    y, _ = ops.swiglu_forward(np.array([-1.0, 0.5]), np.array([3.0, -2.0]))
    np.testing.assert_allclose(y, [-3 / (1 + math.e), -1 / (1 + math.exp(-0.5))], rtol=1e-15)


def test_decoder_gives_every_map_its_own_matrix_and_columns(rng):
    z, w = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((3, 5, 10))
    values, _ = ops.decoder_forward(z, w)
    residual, _ = ops.decoder_forward(z, w, residual=True)
    for m in range(3):
        columns = slice(m * 10, (m + 1) * 10)
        np.testing.assert_allclose(
            values[..., columns], np.einsum("bnd,dw->bnw", z[:, m], w[m]), rtol=1e-12, atol=1e-13
        )
        copies = np.concatenate([z[:, m], z[:, m]], axis=-1)
        np.testing.assert_allclose(residual[..., columns], values[..., columns] + copies, rtol=1e-12, atol=1e-13)


def test_cross_entropy_counts_targets_that_are_not_minus_100(rng):
    logits = rng.standard_normal((2, 3, 4)) + 1e3  # a common shift changes nothing
    targets = np.array([[0, -100, 3], [-100, -100, 2]])
    loss, _ = ops.cross_entropy_forward(logits, targets)
    terms = []
    for b, n in ((0, 0), (0, 2), (1, 2)):
        row = logits[b, n] - 1e3
        terms.append(math.log(sum(math.exp(v) for v in row)) - row[targets[b, n]])
    assert float(loss) == pytest.approx(sum(terms) / 3, rel=1e-12)


def divergences(logits, teacher):
    """Terms p log(p/q) in float64, (..., vocabulary), by SciPy."""
    return special.rel_entr(*(special.softmax(np.float64(x), axis=-1) for x in (teacher, logits)))


def test_kl_is_the_mean_over_tokens(rng):
    logits, teacher = 2 * rng.standard_normal((2, 3, 4, 7))
    before = logits.copy(), teacher.copy()
    divergence, saved = ops.kl_forward(logits, teacher)
    terms = divergences(logits, teacher)
    expected = math.fsum(terms.ravel()) / 12
    # the rounding of 84 terms of either sign, and of the logarithms in them
    assert float(divergence) == pytest.approx(expected, rel=0, abs=1e-14 * np.abs(terms).max())
    # from q to p it is another number
    assert abs(float(divergence) - math.fsum(divergences(teacher, logits).ravel()) / 12) > 0.01 * expected
    first = ops.kl_backward(0.7, saved).copy()
    np.testing.assert_array_equal(first, ops.kl_backward(0.7, saved))  # what is saved is not used up
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(teacher, before[1])


def test_kl_of_the_same_prediction_is_zero(rng):
    """Logits that differ by a constant per token predict the same. These are exact in binary, and so is the sum."""
    logits = rng.integers(-20, 20, (2, 3, 9)) / 4
    for shift in (0.0, rng.integers(-9, 9, (2, 3, 1)) / 2):
        divergence, saved = ops.kl_forward(logits + shift, logits)
        assert divergence == 0
        assert not ops.kl_backward(1.0, saved).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kl_in_low_precision(dtype, rng):
    """Both compute in float32, whose rounding errors are bounded here step by step, to first order."""
    logits, teacher = (4 * rng.standard_normal((2, 6, 50))).astype(dtype)
    divergence, saved = ops.kl_forward(logits, teacher)
    dlogits = ops.kl_backward(1.0, saved)
    assert (divergence.dtype, dlogits.dtype) == (np.float32, dtype)
    u, (n, vocabulary) = 2.0**-24, logits.shape
    wide = np.float64(logits), np.float64(teacher)
    spread = max(np.ptp(x, axis=-1).max() for x in wide)
    # log q = (x − max) − log Σ exp(x − max): x − max is rounded, each exp errs by that and 2 u, the sum of V by V u,
    # the logarithm by 2 u of at most log V, and the last subtraction by u of at most spread + log V
    of_log = u * (spread + (spread + 2 + vocabulary) + 2 * math.log(vocabulary) + spread + math.log(vocabulary))
    of_p = of_log + 2 * u  # relative
    terms = divergences(*wide)
    size = np.abs(terms).sum() / n
    # p (log p − log q): both logarithms, p, the difference, the product; then the sum of n V terms
    bound = 2 * of_log + size * (of_p + 2 * u + n * vocabulary * u)
    assert abs(float(divergence) - math.fsum(terms.ravel()) / n) <= bound
    q, p = (special.softmax(x, axis=-1) for x in wide)
    allowed = (of_p * (p + q) + 2 * u * np.abs(q - p)) / n
    if dtype == "float16":  # rounded once more
        allowed = allowed + np.maximum(2.0**-11 * np.abs(q - p) / n, 2.0**-25)
    assert (np.abs(dlogits - (q - p) / n) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("largest", [2.0**14, 2.0**100])
def test_kl_of_huge_logits(dtype, largest):
    """Each prediction is certain of another word: the divergence is the difference of two logits."""
    logits = np.array([[largest, 0, -largest]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        divergence, saved = ops.kl_forward(logits, -logits)
        dlogits = ops.kl_backward(1.0, saved)
    assert divergence == 2 * largest
    np.testing.assert_array_equal(dlogits, [[1, 0, -1]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.embedding_forward(np.array([[7]]), np.zeros((7, 2))), "ids go from 7 to 7; expected 0 to 6"),
        (lambda: ops.embedding_forward(np.array([[-1]]), np.zeros((7, 2))), "ids go from -1 to -1; expected 0 to 6"),
        (lambda: ops.embedding_forward(np.array([[0.0]]), np.zeros((7, 2))), "ids has dtype float64; expected integers"),
        (lambda: ops.cross_entropy_forward(np.zeros((2, 3)), np.array([0, 3])), "targets go from 0 to 3; expected 0 to 2"),
        (lambda: ops.cross_entropy_forward(np.zeros((2, 3)), np.array([-100, -100])), "no token that counts"),
        (lambda: ops.cross_entropy_forward(np.zeros((2, 3)), np.array([0])), r"targets has shape \(1,\); expected \(2,\)"),
        (lambda: ops.kl_forward(np.zeros((2, 3)), np.zeros((2, 4))), r"teacher has shape \(2, 4\); expected \(2, 3\)"),
        (lambda: ops.kl_forward(np.zeros((2, 3)), np.zeros(3)), r"teacher has shape \(3,\); expected \(2, 3\)"),
        (lambda: ops.kl_forward(np.zeros((2, 3)), [[0.0] * 3] * 2), "teacher is a list; expected an array"),  # type: ignore[arg-type]
        (lambda: ops.gate_forward(np.zeros(2), "gelu"), "gate='gelu' must be one of 'sigmoid', 'silu', 'relu2', 'none'"),
        (lambda: ops.rope_forward(np.zeros((2, 4)), *ops.rope_angles(np.arange(2), 4), "pairs"), "pairing='pairs' must be one of"),
        (lambda: ops.rope_angles(np.arange(2), 5), "head_dim=5 must be even"),
        (lambda: ops.decoder_forward(np.zeros((1, 1, 1, 4)), np.zeros((1, 4, 6)), True), "needs width / d_l to be a whole number; got 6 / 4"),
        (lambda: as_dtype("int32"), "dtype='int32' must be one of float64, float32, float16, bfloat16"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


LOW = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("dtype", LOW)
def test_sixteen_bits_are_storage(rng, dtype):
    """The result is, bit for bit, that of float32 arithmetic on the widened inputs, rounded once."""

    def low(*shape):
        return rng.standard_normal(shape).astype(LOW[dtype])

    x, w, b, g, dy = low(2, 3, 8), low(8, 4), low(4), low(8), low(2, 3, 8)
    mask = np.tri(3, 8, dtype=bool)
    cos, sin = ops.rope_angles(np.arange(3), 8, dtype=np.float32)
    for forward, *arguments in (
        (ops.linear_forward, x, w, b),
        (ops.rmsnorm_forward, x, g),
        (ops.swiglu_forward, x, dy),
        (lambda v: ops.softmax_forward(v, mask), x),
        (lambda v: ops.rope_forward(v, cos, sin), x),
        (lambda v: ops.gate_forward(v, "silu"), x),
        (lambda z, w: ops.decoder_forward(z, w, residual=False), x[:, None], w[None]),
    ):
        got, _ = forward(*arguments)
        want, _ = forward(*(widen(a) for a in arguments))
        assert got.dtype == LOW[dtype]
        np.testing.assert_array_equal(got.view(np.uint16), want.astype(LOW[dtype]).view(np.uint16))
    _, saved = ops.linear_forward(x, w, b)
    for grad in ops.linear_backward(low(2, 3, 4), saved):
        assert grad.dtype == LOW[dtype]
    assert ops.softmax_lse_forward(x)[1].dtype == np.float32
    loss, saved = ops.cross_entropy_forward(x, np.zeros((2, 3), int))
    assert loss.dtype == np.float32
    assert ops.cross_entropy_backward(1.0, saved).dtype == LOW[dtype]
    divergence, saved = ops.kl_forward(x, dy)
    wide, wide_saved = ops.kl_forward(widen(x), widen(dy))
    assert (divergence.dtype, divergence) == (np.float32, wide)
    got, want = ops.kl_backward(1.0, saved), ops.kl_backward(1.0, wide_saved).astype(LOW[dtype])
    assert got.dtype == LOW[dtype]
    np.testing.assert_array_equal(got.view(np.uint16), want.view(np.uint16))


def test_float32_stays_float32(rng):
    x, w, b, g = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 8), (8, 8), (8,), (8,)))
    angles = ops.rope_angles(np.arange(3), 8, dtype=np.float32)
    for forward, backward in (
        (lambda: ops.linear_forward(x, w, b), ops.linear_backward),
        (lambda: ops.rmsnorm_forward(x, g), ops.rmsnorm_backward),
        (lambda: ops.swiglu_forward(x, x), ops.swiglu_backward),
        (lambda: ops.softmax_forward(x), ops.softmax_backward),
        (lambda: ops.rope_forward(x, *angles), ops.rope_backward),
        *((lambda kind=kind: ops.gate_forward(x, kind), ops.gate_backward) for kind in ("sigmoid", "silu", "relu2")),
        (lambda: ops.decoder_forward(x[:, None], w[None], True), ops.decoder_backward),
        (lambda: ops.cross_entropy_forward(x, np.zeros((2, 3), int)), ops.cross_entropy_backward),
        (lambda: ops.kl_forward(x, x * x), ops.kl_backward),
    ):
        y, saved = forward()
        grads = backward(y, saved)
        for a in (y, *(grads if isinstance(grads, tuple) else (grads,))):
            assert a.dtype == np.float32
