"""Faults that were found in the arguments of layers, by example: cotangents, masks, configs, caches, params, options."""

import dataclasses
import re

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import attention_backward, attention_forward
from gta_ref.lm import model
from tests.arguments.kinds import refused
from tests.arguments.layers import (
    CACHED,
    CONFIGS,
    CORE,
    FORWARD,
    IDS,
    LM,
    LM_PARAMS,
    LM_SAVED,
    LOGITS,
    LOSS_SAVED,
    LSE,
    K,
    Q,
    V,
    X,
    Z,
    new_cache,
)


def test_a_cotangent_of_another_shape_or_dtype(case):
    mechanism, _, _, saved, _ = case
    square = np.zeros((3, 2, 8), np.float32)  # dout (2, 3, 8) with its first two axes exchanged
    refused(r"dout has shape \(3, 2, 8\); expected \(2, 3, 8\), as out", mechanism.backward, square, saved)
    refused(r"dout has shape \(8, 3, 2\); expected \(2, 3, 8\), as out", mechanism.backward, X.T, saved)
    refused("dout is a list; expected an array of floats", mechanism.backward, X.tolist(), saved)
    refused("dout is None; expected an array of floats", mechanism.backward, None, saved)
    for dtype in ("complex64", "int32", "bool"):
        refused(f"dout has dtype {dtype}; expected one of float64, float32", mechanism.backward, X.astype(dtype), saved)
    for dtype in ("float64", "float16"):
        refused(f"dout has dtype {dtype}; expected float32, as out", mechanism.backward, X.astype(dtype), saved)


def test_a_cotangent_of_the_model():
    refused(r"dlogits has shape \(3, 2, 11\); expected \(2, 3, 11\)", model.backward, LOGITS.swapaxes(0, 1), LM_SAVED)
    refused("dlogits has dtype complex64; expected one of", model.backward, LOGITS.astype("complex64"), LM_SAVED)
    refused("dlogits has dtype float64; expected float32, as logits", model.backward, LOGITS.astype("f8"), LM_SAVED)
    refused("dloss='1' must be a number", model.loss_backward, LOSS_SAVED, "1")


def test_a_cotangent_of_the_core():
    refused(r"dz has dtype complex128; expected one of", attention_backward, Z.astype(complex), CORE)
    refused(r"dlse has dtype complex128; expected one of", attention_backward, Z, CORE, dlse=LSE.astype(complex))
    refused(r"dlse has dtype bool; expected one of", attention_backward, Z, CORE, dlse=np.ones(LSE.shape, bool))


def test_saved_of_something_else(case):
    mechanism, _, _, saved, _ = case
    for wrong in (3, {}, CORE, LM_SAVED, tuple(saved), np.zeros(3)):
        refused("saved is a .*; expected what forward returns with need_saved=True", mechanism.backward, X, wrong)
    others = [other for _, other in FORWARD.values() if type(other) is not type(saved)]
    for wrong in others:
        refused("saved is a gta_ref.*Saved; expected what forward", mechanism.backward, X, wrong)
        refused("saved is a gta_ref.*Saved; expected what attention_forward", attention_backward, Z, wrong)
        refused("saved is a gta_ref.*Saved; expected what forward", model.backward, LOGITS, wrong)


def test_a_boolean_array_as_mask(case):
    mechanism, config, params, _, _ = case
    seen = np.tri(3, dtype=bool)
    for wrong, kind in ((seen, "ndarray"), (True, "bool"), ("causal", "str")):
        message = f"mask is a {kind}; expected a gta_ref.core.Mask"
        refused(message, mechanism.forward, params, X, config, mask=wrong)
        refused(message, model.forward, LM_PARAMS, IDS, LM, mask=wrong)
        refused(message, attention_forward, Q, K, V, mask=wrong)


def test_the_config_of_another_mechanism(case):
    """Also of one that shares its functions, as MHA, GQA, GVA and GHA do."""
    mechanism, config, params, _, cache = case
    others = [other for other in CONFIGS.values() if other is not config]
    expected = rf"; expected (a|the) {re.escape(type(config).__module__)}\.Config"
    for wrong in (*others, LM, 3, None, dataclasses.asdict(config)):
        came = "None" if wrong is None else rf"a (gta_ref\.[\w.]+\.)?{type(wrong).__name__}"
        message = f"^config is {came}{expected}"
        refused(message, mechanism.forward, params, X, wrong)
        refused(message, mechanism.forward, params, X, config=wrong)
        refused(message, mechanism.decode, params, X, cache, wrong)
        refused(message, mechanism.init, wrong, np.random.default_rng(0))
        refused(message, mechanism.structure, wrong)
        refused(message, mechanism.param_shapes, wrong)
    assert len(others) == len(CONFIGS) - 1


def test_a_cache_of_another_kind(case):
    mechanism, config, params, _, cache = case
    for wrong in (None, {}, cache.arrays, [cache], 3):
        refused("cache is .*; expected a gta_ref.KVCache", mechanism.decode, params, X, wrong, config)
    names = KVCache({"other": (1, 2)}, 2, 5)
    refused("append: missing .* unknown|append: unknown", mechanism.decode, params, X, names, config)
    wide = KVCache(mechanism.structure(config).cached, 2, 5, "float64")
    refused(
        "append .* has dtype float32; expected float64, as the cache has", mechanism.decode, params, X, wide, config
    )
    assert names.length == wide.length == 0


def test_caches_of_a_model():
    caches = model.new_caches(LM, 2, 5)
    refused(
        "caches is a gta_ref.cache.KVCache; expected a sequence", model.decode, LM_PARAMS, IDS, new_cache("gta"), LM
    )
    refused("caches is None; expected a sequence", model.decode, LM_PARAMS, IDS, None, LM)
    refused(r"caches\[1\] is a dict; expected a gta_ref.KVCache", model.decode, LM_PARAMS, IDS, [caches[0], {}], LM)
    refused(
        r"caches\[1\] is caches\[0\]; expected a cache of its own", model.decode, LM_PARAMS, IDS, [caches[0]] * 2, LM
    )
    caches[1].append(k=np.zeros((2, 1, 1, 4), "f4"), c=np.zeros((2, 1, 1, 8), "f4"))
    refused(r"caches\[1\] holds 1 token.*; expected 0, as caches\[0\]", model.decode, LM_PARAMS, IDS, caches, LM)


def test_a_trace_that_is_no_dict(case):
    mechanism, config, params, saved, cache = case
    for wrong in ([], True, "trace", {1}):
        message = "trace is a .*; expected a dict"
        refused(message, mechanism.forward, params, X, config, trace=wrong)
        refused(message, mechanism.decode, params, X, cache, config, trace=wrong)
        refused(message, mechanism.backward, X, saved, trace=wrong)
        refused(message, attention_forward, Q, K, V, trace=wrong)
        refused(message, attention_backward, Z, CORE, trace=wrong)


def test_options_that_are_neither_true_nor_false(case):
    mechanism, config, params, _, _ = case
    for wrong in (1, None, "no", np.zeros(2)):
        refused("need_saved=.* must be True or False", mechanism.forward, params, X, config, need_saved=wrong)
        refused("need_saved=.* must be True or False", attention_forward, Q, K, V, need_saved=wrong)
        refused("last=.* must be True or False", model.forward, LM_PARAMS, IDS, LM, need_saved=False, last=wrong)


def test_an_rng_that_is_no_generator(case):
    mechanism, config, _, _, _ = case
    for wrong in (None, 0, np.random, np.random.RandomState(0)):
        refused("rng is .*; expected a numpy.random.Generator", mechanism.init, config, wrong)
        refused("rng is .*; expected a numpy.random.Generator", model.init, LM, wrong)


def test_no_dtype(case):
    mechanism, config, _, _, _ = case
    rng = np.random.default_rng(0)
    for wrong in (None, np.zeros(2), 3, "int8", complex, b"float32", ("float32", 3), "\udcff"):
        refused("dtype=.* must be one of float64, float32, float16, bfloat16", mechanism.init, config, rng, wrong)
        refused("dtype=.* must be one of float64, float32, float16, bfloat16", KVCache, CACHED, 1, 1, wrong)


def test_params_that_are_no_mapping(case):
    mechanism, config, params, _, cache = case
    name = next(iter(params))
    for wrong, message in (
        (3, "params is a int; expected a mapping of names to arrays"),
        (None, "params is None; expected a mapping of names to arrays"),
        (list(params), "params is a list; expected a mapping of names to arrays"),
        ({**params, name: None}, rf"params\['{name}'\] is None; expected an array of floats"),
        ({**params, name: params[name].tolist()}, rf"params\['{name}'\] is a list; expected an array of floats"),
        ({**params, name: params[name].astype(complex)}, rf"params\['{name}'\] has dtype complex128; expected float32"),
        ({**params, 3: params[name], "a": params[name]}, "params: unknown 3, a; expected"),
    ):
        refused(message, mechanism.forward, wrong, X, config)
        refused(message, mechanism.decode, wrong, X, cache, config)


def test_params_of_a_model_that_are_no_floats():
    for wrong, message in (
        (3, "params is a int; expected a mapping"),
        ({**LM_PARAMS, "embed": [1]}, r"params\['embed'\] is a list; expected an array of floats"),
        ({n: p.astype(complex) for n, p in LM_PARAMS.items()}, r"params\['embed'\] has dtype complex128; expected one"),
        ({n: p.astype(int) for n, p in LM_PARAMS.items()}, r"params\['embed'\] has dtype int64; expected one of"),
    ):
        refused(message, model.forward, wrong, IDS, LM)
        refused(message, model.decode, wrong, IDS, model.new_caches(LM, 2, 3), LM)
