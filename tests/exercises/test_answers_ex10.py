"""Exercise 10: answers that a student may write, right ones in several styles and wrong ones, and what is said to each."""

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import scipy.special

from gta_ref.exercises import check
from tests.exercises.answers import Answers

# imported here, so that a check does not import it in every process
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
ANSWERS = Answers("ex10")


def logaddexp(z1, lse1, z2, lse2):
    """The weights are exp(lse_p − lse), which in float32 near 300 is off by far more than one rounding."""
    lse = np.logaddexp(lse1, lse2)
    safe = np.where(np.isneginf(lse), 0, lse)
    return np.exp(lse1 - safe)[..., None] * z1 + np.exp(lse2 - safe)[..., None] * z2, lse


def shifted(z1, lse1, z2, lse2):
    top = np.maximum(lse1, lse2)
    top = np.where(np.isfinite(top), top, 0)
    w1, w2 = np.exp(lse1 - top), np.exp(lse2 - top)
    total = w1 + w2
    safe = np.where(total == 0, 1, total)
    return (w1[..., None] * z1 + w2[..., None] * z2) / safe[..., None], top + np.log(total)


def sigmoid(z1, lse1, z2, lse2):
    blind = np.isneginf(lse1) & np.isneginf(lse2)
    share = scipy.special.expit(np.where(blind, 0, lse1 - lse2))[..., None]
    return share * z1 + (1 - share) * z2, np.where(blind, -np.inf, np.logaddexp(lse1, lse2)).astype(z1.dtype)


def logsumexp(z1, lse1, z2, lse2):
    both = np.stack([lse1, lse2])
    lse = scipy.special.logsumexp(both, 0)
    weights = np.nan_to_num(np.exp(both - lse))
    return np.einsum("pbmn,pbmnd->bmnd", weights, np.stack([z1, z2])), lse


def softmax(z1, lse1, z2, lse2):
    both = np.stack([lse1, lse2], -1)
    weights = np.nan_to_num(scipy.special.softmax(both, -1))
    return (weights[..., None, :] @ np.stack([z1, z2], -2))[..., 0, :], scipy.special.logsumexp(both, -1)


def loops(z1, lse1, z2, lse2):
    z, lse = np.zeros_like(z1), np.full_like(lse1, -np.inf)
    for row in np.ndindex(lse1.shape):
        a, b = float(lse1[row]), float(lse2[row])
        if a == b == -math.inf:
            continue
        top = max(a, b)
        total = math.exp(a - top) + math.exp(b - top)
        lse[row] = top + math.log(total)
        z[row] = (math.exp(a - top) * z1[row] + math.exp(b - top) * z2[row]) / total
    return z, lse


def in_place_steps(z1, lse1, z2, lse2):
    """Merge into the larger part, by the difference alone."""
    swap = lse2 > lse1
    low, high = np.where(swap, lse1, lse2), np.where(swap, lse2, lse1)
    ratio = np.exp(low - high, where=~np.isneginf(high), out=np.zeros_like(low))
    z_low, z_high = np.where(swap[..., None], z1, z2), np.where(swap[..., None], z2, z1)
    return (z_high + ratio[..., None] * z_low) / (1 + ratio)[..., None], high + np.log1p(ratio)


def with_torch(z1, lse1, z2, lse2):
    z1, lse1, z2, lse2 = (torch.tensor(x) for x in (z1, lse1, z2, lse2))
    lse = torch.logaddexp(lse1, lse2)
    safe = torch.where(torch.isinf(lse), 0, lse)
    return ((lse1 - safe).exp()[..., None] * z1 + (lse2 - safe).exp()[..., None] * z2).numpy(), lse.numpy()


RIGHT = [logaddexp, shifted, sigmoid, logsumexp, softmax, loops, in_place_steps, with_torch]


@pytest.mark.parametrize("answer", RIGHT, ids=lambda answer: answer.__name__)
def test_right(answer):
    if torch is None and answer is with_torch:
        pytest.skip("PyTorch is not installed")
    ANSWERS.accepted(answer)


def right_z(z1, lse1, z2, lse2):
    return shifted(z1, lse1, z2, lse2)[0]


def lse_by(rule):
    """Right z, and another lse."""
    return lambda z1, lse1, z2, lse2: (right_z(z1, lse1, z2, lse2), rule(lse1, lse2))


def weights_by(rule, divide=True):
    """Right lse, and other weights."""

    def answer(z1, lse1, z2, lse2):
        w1, w2 = (w[..., None] for w in rule(lse1, lse2))
        return (w1 * z1 + w2 * z2) / (w1 + w2 if divide else 1), np.logaddexp(lse1, lse2)

    return answer


def exp_of(factor):
    return lambda a, b: (np.exp(factor * (a - np.maximum(a, b))), np.exp(factor * (b - np.maximum(a, b))))


def no_shift(z1, lse1, z2, lse2):
    a, b = np.exp(lse1)[..., None], np.exp(lse2)[..., None]
    return (a * z1 + b * z2) / (a + b), np.log(a + b)[..., 0]


def no_care(z1, lse1, z2, lse2):
    share = np.exp(lse1 - np.logaddexp(lse1, lse2))[..., None]
    return share * z1 + (1 - share) * z2, np.logaddexp(lse1, lse2)


def a_billion(z1, lse1, z2, lse2):
    lse1, lse2 = (np.maximum(x, -1e9).astype(x.dtype) for x in (lse1, lse2))
    return shifted(z1, lse1, z2, lse2)


WRONG = {
    "average": (lambda z1, lse1, z2, lse2: ((z1 + z2) / 2, np.logaddexp(lse1, lse2)), ("averaged",)),
    "added": (lambda z1, lse1, z2, lse2: (z1 + z2, np.logaddexp(lse1, lse2)), ("added without weights",)),
    "lse as weights": (weights_by(lambda a, b: (a, b)), ("the weights are the lse themselves",)),
    "not divided": (weights_by(exp_of(1), False), ("not divided by the sum of the weights",)),
    "swapped": (weights_by(lambda a, b: exp_of(1)(b, a)), ("the weights are swapped",)),
    "powers of 2": (weights_by(exp_of(math.log(2))), ("the weights are powers of 2",)),
    "inverse": (weights_by(exp_of(-1)), ("1/exp(lse)",)),
    "larger part": (
        lambda z1, lse1, z2, lse2: (np.where((lse1 >= lse2)[..., None], z1, z2), np.logaddexp(lse1, lse2)),
        ("the part with the larger lse alone",),
    ),
    "no shift": (no_shift, ("exp overflows", "lse near 1000")),
    "no care for blind rows": (no_care, ("−∞ − −∞", "saw nothing")),
    "larger lse": (lse_by(np.maximum), ("lse is the larger of the two",)),
    "sum of lse": (lse_by(np.add), ("lse is the sum of the two",)),
    "mean of lse": (lse_by(lambda a, b: (a + b) / 2), ("lse is the mean of the two",)),
    "no top": (lse_by(lambda a, b: np.logaddexp(a, b) - np.maximum(a, b)), ("has to be added back",)),
    "base 2": (
        lse_by(lambda a, b: np.maximum(a, b) + np.log2(1 + np.exp(np.minimum(a, b) - np.maximum(a, b)))),
        ("lse is in powers of 2",),
    ),
    "log of the mean": (lse_by(lambda a, b: np.logaddexp(a, b) - math.log(2)), ("logarithm of the mean",)),
    "log1p of the total": (
        lse_by(lambda a, b: np.maximum(a, b) + np.log1p(np.exp(-np.abs(a - b)) + 1)), ("log(1 + total)",),
    ),
    "a billion": (a_billion, ("values of lse are wrong", "expected -inf", "saw nothing")),
    "an epsilon": (
        lambda z1, lse1, z2, lse2: (right_z(z1, lse1, z2, lse2) * (1 - 1e-6), np.logaddexp(lse1, lse2)),
        ("values of z are wrong",),
    ),
    "lse first": (lambda z1, lse1, z2, lse2: shifted(z1, lse1, z2, lse2)[::-1], ("z has shape", "expected (2, 3, 5, 4)")),
    "lse with an axis": (
        lambda z1, lse1, z2, lse2: (right_z(z1, lse1, z2, lse2), np.logaddexp(lse1, lse2)[..., None]),
        ("lse has shape (2, 3, 5, 1)",),
    ),
    "z alone": (right_z, ("expected 2 arrays, z, lse",)),
    "no axis": (lambda z1, lse1, z2, lse2: (np.exp(lse1) * z1, lse1), ("ValueError", "broadcast")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    ANSWERS.refused(*WRONG[name])


def test_the_tolerance_is_not_for_mistakes():
    """Near 300, float32's lse has steps of 3e-5; a weight that is off by a thousandth is wrong all the same."""

    def off(z1, lse1, z2, lse2):
        z, lse = shifted(z1, lse1, z2, lse2)
        return (z * z.dtype.type(1.002) if lse1.max() > 100 and z.dtype == np.float32 else z), lse

    assert "float32, lse near 300" in check("ex10", off).hint
