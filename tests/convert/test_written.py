"""Text that a model writes itself: drawn from what it predicts, token by token, the same in every call."""

import numpy as np
import pytest
from scipy import special

from gta_ref.convert import written
from gta_ref.lm import model
from gta_ref.weights import pretrained
from tests.convert import tiny

RNG = np.random.default_rng
_NO_MODEL = pretrained.why_not("smollm2")
LARGEST = 1 - 2.0**-53  # of a generator's random numbers


class Given:
    """A generator whose random numbers are given."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, np.float64)

    def random(self, shape):
        return self.numbers.reshape(shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_probabilities_are_those_of_softmax(dtype):
    """Of n numbers at equal distances in (0, 1), n p ± 1 lie in an interval of length p.

    The bound for float32 is larger by the rounding of its logits: their differences are up to 10, with errors of 1e-6,
    by which the ends of the intervals move by less than 1e-5.
    """
    n, logits = 20_000, (2 * RNG(0).standard_normal(30)).astype(dtype)
    found = written.draw(np.tile(logits, (n, 1)), Given((np.arange(n) + 0.5) / n))
    assert (found.shape, found.dtype) == ((n,), np.int64)
    counts = np.bincount(found, minlength=30)
    bound = 1 if dtype == "float64" else 1 + 1e-5 * n
    np.testing.assert_allclose(counts, n * special.softmax(logits.astype(np.float64)), rtol=0, atol=bound + 1e-9)
    assert (np.diff(found) >= 0).all()


def test_rows_are_drawn_each_from_its_own():
    logits, numbers = RNG(1).standard_normal((50, 7)), RNG(2).random(50)
    found = written.draw(logits, Given(numbers))
    for row, number, token in zip(logits, numbers, found, strict=True):
        ends = np.cumsum(special.softmax(row))
        assert token == np.searchsorted(ends, number, side="right")
    np.testing.assert_array_equal(written.draw(logits, RNG(2)), found)  # one number per row


def test_a_large_vocabulary():
    """As large as SmolLM2's: sums in float32 would move most of the ends by more than a token's probability.

    The logits themselves are rounded to float32, after which an end is wrong by about 1e-9 of the sum, 5e-5 of a token.
    """
    logits, numbers = RNG(5).standard_normal((300, 49_152), np.float32), RNG(6).random(300)
    ends = np.cumsum(special.softmax(logits.astype(np.float64), axis=-1), axis=-1)
    found = written.draw(logits, Given(numbers))
    assert np.mean(found == (ends <= numbers[:, None]).sum(axis=-1)) > 0.99


@pytest.mark.parametrize("number", [0.0, 0.5, LARGEST])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("token", [0, 3, 6])
def test_a_token_of_probability_1(token, dtype, number):
    for other in (-np.inf, -2000.0):
        logits = np.full((3, 7), other, dtype)
        logits[:, token] = 1000
        assert written.draw(logits, Given([number] * 3)).tolist() == [token] * 3


@pytest.mark.parametrize("size", [2, 3, 7, 1000])
def test_a_token_without_probability_is_never_drawn(size):
    """Neither before the first possible token with the number 0, nor after the last with the largest."""
    logits = RNG(3).standard_normal((2, size + 2))
    logits[:, [0, -1]] = -np.inf
    assert written.draw(logits, Given([0.0, LARGEST])).tolist() == [1, size]


def test_texts_are_those_of_whole_forwards():
    """Without a cache and in float64, in which the rounding of a cache moves no token at these numbers."""
    params, config = tiny.original()
    told = []
    found = written.write(params, config, 60, 5, 9, RNG(4), on_token=lambda: told.append(None))
    assert (found.shape, found.dtype) == ((5, 9), np.int64)
    rng, ids = RNG(4), np.full((5, 1), 60)
    for _ in range(9):
        logits, _ = model.forward(params, ids, config, need_saved=False)
        ends = np.cumsum(special.softmax(logits[:, -1], axis=-1), axis=-1)
        new = (ends < rng.random((5, 1))).sum(axis=-1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
    np.testing.assert_array_equal(found, ids[:, 1:])
    assert len({tuple(row) for row in found.tolist()}) == 5
    assert len(told) == 9


def test_the_texts_of_a_model(monkeypatch):
    monkeypatch.setattr(written, "LENGTH", 12)
    teacher, told = tiny.language_model(), []
    found = written.texts(teacher, 3, on_token=lambda: told.append(None))
    start = teacher.tokenizer.encode("<|endoftext|>")[0]
    ids = written.write(teacher.params, teacher.config, start, 3, 12, RNG(written.SEED))
    assert found == "\n\n".join(teacher.tokenizer.decode(row) for row in ids.tolist())
    assert found == written.texts(teacher, 3)
    assert len(told) == 12


@pytest.mark.skipif(_NO_MODEL is not None, reason=str(_NO_MODEL))
def test_the_separator_is_one_token_of_smollm2():
    tokenizer = pretrained.load_tokenizer()
    (separator,) = tokenizer.encode(written.SEPARATOR)
    assert separator in tokenizer.ends


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n": 0}, "n=0 must be a whole number of at least 1"),
        ({"length": 0}, "length=0 must be a whole number of at least 1"),
        ({"start": -1}, "start=-1 must be a whole number of at least 0"),
        ({"start": 256}, "start=256 must be a whole number of at most 255"),
        ({"rng": 3}, "rng is a int; expected"),
    ],
    ids=str,
)
def test_bad_arguments(change, message):
    params, config = tiny.original()
    arguments = {"params": params, "config": config, "start": 0, "n": 1, "length": 1, "rng": RNG(0)}
    with pytest.raises(ValueError, match=message):
        written.write(**{**arguments, **change})
