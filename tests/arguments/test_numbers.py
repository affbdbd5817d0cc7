"""Faults that were found in numbers, names and positions, by example."""

import dataclasses
import functools

import numpy as np
import pytest

from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_forward
from gta_ref.core.engines import ENGINES
from gta_ref.costs import hardware, roofline
from gta_ref.lm import generate, model, train
from gta_ref.mechanisms import NAMES, load
from tests.arguments.costs import GTA_1B, H100
from tests.arguments.kinds import refused
from tests.arguments.layers import (
    CACHED,
    CONFIGS,
    IDS,
    LM,
    LM_PARAMS,
    PARAMS,
    RUN,
    SETTINGS,
    TEXT,
    K,
    Q,
    V,
    X,
    new_cache,
)


@pytest.mark.parametrize(
    "wrong",
    [2**63, 2**70, -(2**63) - 1, 10**400, -(10**5000), np.array([2**63, 1], np.uint64)],
    ids=["2^63", "2^70", "-2^63-1", "10^400", "-10^5000", "an array"],
)
def test_numbers_that_would_wrap(wrong):
    for name in ("q_start", "k_start", "k_stop"):
        refused(f"{name}=.* must be", Mask, **{name: wrong})
    refused("k_start=.* must be", KVCache, CACHED, 2, 4, k_start=wrong)
    for name in ("batch", "capacity"):
        refused(f"{name}=.* must be", KVCache, **{"cached": CACHED, "batch": 1, "capacity": 1, name: wrong})
    for name in ("hidden_size", "head_dim", "latent_dim"):
        refused(f"{name}=.* must be", dataclasses.replace, CONFIGS["gta"], **{name: wrong})
    refused("length=.* must be", roofline.estimate, GTA_1B, "prefill", 1, wrong, H100)


def test_the_largest_bounds_do_not_wrap():
    far = Mask(q_start=2**62, k_start=0)
    assert far.to_dense(3, 5).all()
    assert (far.positions(1, 3, 5) == [2**62, 2**62 + 1, 2**62 + 2]).all()
    assert not Mask(q_start=-(2**62), k_start=2**62, k_stop=5).to_dense(3, 5).any()
    refused("q_start=9223372036854775807 must be a whole number of at most", Mask, q_start=2**63 - 1)


def test_numbers_that_no_float_holds():
    refused("scale=.* must be a finite number above 0", attention_forward, Q, K, V, scale=10**400)
    refused("rope_theta=.* must be a finite number above 0", dataclasses.replace, CONFIGS["mha"], rope_theta=10**400)
    refused("norm_eps=.* must be a finite number above 0", dataclasses.replace, LM, norm_eps=10**400)
    for wrong in ("3", b"3", 1j, np.array([1.0]), np.complex64(1), True, None):
        if wrong is not None:
            refused("scale=.* must be a (finite )?number above 0", attention_forward, Q, K, V, scale=wrong)
        refused("peak=.* must be a (finite )?number above 0", hardware.Hardware, "x", wrong, 1e9, None, "a test")


def test_nothing_to_attend_with():
    refused("n_q=0 must be", attention_forward, Q[:, :0], K, V)
    refused("n_k=0 must divide n_q=4", attention_forward, Q, K[:, :0], V)


def test_an_engine_that_is_no_name(case):
    mechanism, config, params, _, _ = case
    for wrong in (None, 3, np.zeros(2), ["numba"], "fast"):
        refused("engine=.* must be one of 'reference'", mechanism.forward, params, X, config, engine=wrong)
        refused("engine=.* must be one of 'reference'", model.forward, LM_PARAMS, IDS, LM, engine=wrong)
        refused("engine=.* must be one of 'reference'", attention_forward, Q, K, V, engine=wrong)
    assert "reference" in ENGINES


def test_positions_that_are_no_positions(case):
    mechanism, config, params, _, _ = case
    for wrong in ([0.0, 1.0, 2.0], [[1], [1, 2]], "012", {}, [0, 1], [True] * 3, [10**400] * 3):
        refused("positions.*; expected integers", mechanism.forward, params, X, config, positions=wrong)
    for wrong in ([0.0, 1.0, 2.0], [[1], [1, 2]]):
        refused(
            "positions.*; expected integers",
            load("gta").forward_unabsorbed,
            PARAMS["gta"],
            X,
            CONFIGS["gta"],
            positions=wrong,
        )


def test_a_message_is_short():
    huge = np.zeros((100, 100))
    with pytest.raises(ValueError) as error:
        Mask(causal=huge)
    assert str(error.value).startswith("causal=array([[0., 0.")
    assert str(error.value).endswith("must be True or False")
    assert len(str(error.value)) < 120
    assert "\n" not in str(error.value)


def test_sizes_of_small_models():
    for name in NAMES:
        small_sizes = load(name).small_sizes
        refused("n_heads='4' must be a whole number of at least 1", small_sizes, "4", 4)
        refused("head_dim=0 must be a whole number of at least 1", small_sizes, 4, 0)
        if name not in ("mha", "mla"):
            refused("n_heads=6 must be a multiple of 4", small_sizes, 6, 4)


def test_tokens_to_continue():
    stream = functools.partial(generate.stream, LM_PARAMS, config=LM, n_tokens=2)
    refused("ids is a str; expected a collection of whole numbers", stream, "text")
    refused(r"ids\[1\]=1.0 must be a whole number of at least 0", stream, [3, 1.0])
    refused("the prompt is empty", stream, [])
    refused(r"ends\[0\]='x' must be a whole number", stream, [1], ends=["x"])
    refused("caches has 1 entries; expected n_layers=2", stream, [1], caches=[new_cache("gta")])
    refused("temperature='hot' must be a number of at least 0", stream, [1], temperature="hot")
    refused("top_p=nan must be above 0", stream, [1], top_p=float("nan"))
    refused("engine='fast' must be one of 'reference'", stream, [1], engine="fast")
    refused("ids is a list; expected an array", generate.greedy, LM_PARAMS, [[1]], LM, 2)
    refused("ids has dtype float64; expected integers", generate.greedy, LM_PARAMS, np.ones((1, 2)), LM, 2)


def test_runs_of_something_else():
    refused(
        "config is a gta_ref.*Config; expected a gta_ref.lm.config.Config", train.begin, CONFIGS["gta"], SETTINGS, TEXT
    )
    refused("settings is None; expected a gta_ref.lm.train.Settings", train.begin, LM, None, TEXT)
    refused("source is a str; expected a gta_ref.lm.text.Source", train.begin, LM, SETTINGS, "letters")
    refused("run is a gta_ref.lm.run.State; expected a gta_ref.lm.train.Run", train.advance, RUN.state, TEXT)
    refused("on_step is a str; expected a function or None", train.advance, RUN, TEXT, on_step="show")
    refused("weight_decay='x' must be a number of at least 0", dataclasses.replace, SETTINGS, weight_decay="x")
