"""The KV cache: what it holds, how many bytes it takes, and that a refused append changes nothing."""

import ml_dtypes
import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.mechanisms import gta

CACHED = {"k": (2, 4), "c": (1, 6)}


def tokens(rng, n, dtype="float32", batch=3):
    return {name: rng.standard_normal((batch, h, n, w)).astype(dtype) for name, (h, w) in CACHED.items()}


def test_holds_what_was_appended_in_order(rng):
    cache = KVCache(CACHED, batch=3, capacity=9)
    parts = [tokens(rng, n) for n in (4, 0, 1, 4)]
    for part in parts:
        held = cache.append(**part)
    assert cache.length == 9
    for name in CACHED:
        np.testing.assert_array_equal(held[name], np.concatenate([part[name] for part in parts], axis=2))
        assert np.shares_memory(held[name], cache.arrays[name])


@pytest.mark.parametrize("dtype, size", [("float64", 8), ("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_bytes(rng, dtype, size):
    cache = KVCache(CACHED, batch=3, capacity=10, dtype=dtype)
    elements = 2 * 4 + 6  # per token
    assert cache.nbytes == 3 * 10 * elements * size
    assert cache.used_nbytes == 0
    cache.append(**tokens(rng, 7, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    assert cache.used_nbytes == 3 * 7 * elements * size
    assert cache.nbytes == 3 * 10 * elements * size


def test_gta_1b_holds_192_elements_a_token():
    cache = KVCache(gta.structure(gta.Config.preset("gta-1b")).cached, 1, 1)
    assert cache.nbytes == 192 * 4


def refused(cache, match, **new):
    before = {name: a.copy() for name, a in cache.arrays.items()}
    length = cache.length
    with pytest.raises(ValueError, match=match):
        cache.append(**new)
    assert cache.length == length
    for name, a in before.items():
        np.testing.assert_array_equal(cache.arrays[name], a)


def test_refused_appends_change_nothing(rng):
    cache = KVCache(CACHED, batch=3, capacity=6)
    cache.append(**tokens(rng, 4))
    refused(cache, r"capacity=6 is too small: 4 tokens are held and 3 more came; expected at most 2", **tokens(rng, 3))
    refused(cache, r"append: missing c", k=tokens(rng, 1)["k"])
    refused(cache, r"append: unknown v", v=np.zeros(1), **tokens(rng, 1))
    refused(cache, r"append k has dtype float64; expected float32", **tokens(rng, 1, "float64"))
    one, two = tokens(rng, 1), tokens(rng, 2)
    refused(cache, r"append c has shape \(3, 1, 2, 6\); expected \(3, 1, 1, 6\)", k=one["k"], c=two["c"])
    refused(cache, r"append k has shape \(2, 2, 1, 4\); expected \(3, 2, 1, 4\)", **tokens(rng, 1, batch=2))
    refused(cache, r"append k has shape \(4,\)", k=np.zeros(4, np.float32), c=one["c"])


def test_appended_is_taken_back_when_the_block_raises(rng):
    cache = KVCache(CACHED, batch=3, capacity=6)
    cache.append(**tokens(rng, 2))
    with pytest.raises(KeyError), cache.appended(**tokens(rng, 3)) as held:  # noqa: PT012
        assert held["k"].shape[2] == 5
        raise KeyError("in the block")
    assert cache.length == 2
    with cache.appended(**tokens(rng, 3)):
        pass
    assert cache.length == 5


def test_truncate(rng):
    cache = KVCache(CACHED, batch=3, capacity=6)
    cache.append(**tokens(rng, 4))
    cache.truncate(1)
    assert cache.length == 1
    for length in (-1, 2):
        with pytest.raises(ValueError, match=f"length={length} must be between 0 and the 1 tokens held"):
            cache.truncate(length)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(batch=0), "batch=0 must be a whole number of at least 1"),
        (dict(capacity=-1), "capacity=-1 must be a whole number of at least 0"),
        (dict(capacity=2.5), r"capacity=2\.5 must be a whole number"),
        (dict(dtype="int8"), "dtype='int8' must be one of float64, float32, float16, bfloat16"),
        (dict(k_start=[0, 1]), r"k_start has dtype int64 and shape \(2,\); expected an int or integers \(3,\)"),
        (dict(k_start=0.5), "k_start has dtype float64"),
        (dict(k_start=-1), "k_start=-1 must be a whole number of at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        KVCache(CACHED, **{"batch": 3, "capacity": 4, **arguments})
