"""What each parameter may be, and values of every kind that it may not be."""

import operator
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import strategies as st

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.costs import hardware, operators
from gta_ref.costs.experts import Experts
from gta_ref.costs.model import Group, Model
from gta_ref.lm import text as texts
from gta_ref.lm import train
from gta_ref.mechanisms import NAMES, load
from gta_ref.ops.arrays import FLOAT_DTYPES
from tests.arguments.costs import GTA_1B, H100, STRUCTURE
from tests.arguments.layers import (
    CACHED,
    CONFIGS,
    CORE,
    FORWARD,
    LM,
    LM_PARAMS,
    LM_SAVED,
    LOSS_SAVED,
    NEW,
    PARAMS,
    RUN,
    SETTINGS,
    TEXT,
    new_cache,
)

LARGEST = 2**63 - 1


def whole(value):
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    try:
        return not isinstance(value, bool) and abs(operator.index(value)) <= LARGEST
    except TypeError:
        return False


def whole_or_integers(value):
    """One whole number, or a row of them."""
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) == 1:
        return np.asarray(value).dtype.kind in "iu"
    return whole(value)


def number(value, zero=False):
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    return (
        not isinstance(value, (bool, str, bytes, complex))
        and kind in "fiuV"
        and (float(value) > 0 or (zero and float(value) == 0))
    )


def floats(value):
    return isinstance(value, np.ndarray) and value.dtype.name in FLOAT_DTYPES


def optional(test):
    return lambda value: value is None or test(value)


def truth(value):
    return isinstance(value, bool)


def instance(*kinds):
    return lambda value: isinstance(value, kinds)


def integers(value):
    return np.asarray(value).dtype.kind in "iu"


def rows(test):
    return lambda value: isinstance(value, (list, tuple, np.ndarray)) and all(test(one) for one in value)


INTS = [
    "n_heads",
    "head_dim",
    "n_q",
    "n_k",
    "n_c",
    "n_v",
    "latent_dim",
    "nope_dim",
    "rope_dim",
    "value_dim",
    "n_layers",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "batch",
    "capacity",
    "length",
    "new",
    "held",
    "itemsize",
    "parameters",
    "n_queries",
    "n_keys",
]
BOUNDS = ["q_start", "k_start", "k_stop"]
TRUTHS = [
    "causal",
    "need_saved",
    "last",
    "frozen",
    "absorb",
    "fused",
    "causal_saving",
    "all_logits",
    "prefill",
    "tied",
    "bias",
    "output_bias",
    "decoder_residual",
    "latent_norm",
    "qk_norm",
]
TEXTS = ["engine", "name", "source", "stage", "convention", "text", "gate", "rope_pairing", "mechanism"]
MODELS = ["model", "baseline"]

ALLOWED = {
    **dict.fromkeys(INTS, whole),
    **dict.fromkeys(BOUNDS, optional(whole_or_integers)),
    **dict.fromkeys(TRUTHS, truth),
    **dict.fromkeys(TEXTS, instance(str)),
    **dict.fromkeys(MODELS, instance(Model)),
    **dict.fromkeys(("structure", "s"), instance(type(STRUCTURE))),
    **dict.fromkeys(("q", "k", "v", "c", "x"), floats),
    **dict.fromkeys(("rope_theta", "rope_magnitude", "norm_eps", "peak", "bandwidth"), number),
    **dict.fromkeys(("params", "cached", "sizes"), instance(Mapping)),
    **dict.fromkeys(("batches", "lengths", "latent_dims"), rows(whole)),
    "found": rows(instance(operators.Operator)),
    "query_latent_dim": optional(whole),
    **dict.fromkeys(("first", "routed", "used", "shared", "width", "tokens"), whole),
    "experts": optional(instance(Experts)),
    "groups": rows(instance(Group)),
    "memory": optional(whole),
    **dict.fromkeys(("scale", "score_scale"), optional(number)),
    "rope_frequencies": optional(rows(number)),
    "dloss": lambda value: not isinstance(value, (bool, str, bytes, complex)) and np.ndim(value) == 0,
    "mask": optional(instance(Mask)),
    "trace": optional(instance(dict)),
    "cache": instance(KVCache),
    "caches": optional(rows(instance(KVCache))),
    "rng": instance(np.random.Generator),
    "dtype": instance(str, type, np.dtype),
    "like": optional(instance(np.ndarray)),
    "positions": optional(integers),
    "ids": instance(np.ndarray),
    **dict.fromkeys(("steps", "warmup", "seed", "validate_every", "validation_sequences", "n_tokens"), whole),
    **dict.fromkeys(("learning_rate", "final_fraction", "clip", "top_p"), number),
    **dict.fromkeys(("temperature", "weight_decay"), lambda value: number(value, zero=True)),
    "logits": floats,
    "run": instance(train.Run),
    "settings": instance(train.Settings),
    **dict.fromkeys(("on_step", "on_validation"), optional(callable)),
    "gradient": callable,
    "targets": optional(instance(np.ndarray)),
    "dlse": optional(floats),
    "hardware": instance(hardware.Hardware),
    "models": rows(instance(Model)),
    "attention": instance(*(load(name).Config for name in NAMES)),
}


def allowed(function, parameter, value, good):
    if parameter in ("dout", "dz", "dlogits"):
        return floats(value) and (value.shape, value.dtype.name) == (good.shape, good.dtype.name)
    if function == "KVCache.next_mask":
        return hasattr(value, "shape") and len(value) == 2
    if parameter == "saved":
        return type(value) is type(good)
    if parameter == "config":
        return isinstance(value, type(good))
    if function.startswith("train.") and parameter == "source":
        return isinstance(value, texts.Text)
    if function == "generate.stream" and parameter in ("ids", "ends"):
        return isinstance(value, (bytes, list, tuple, range, set, np.ndarray))
    if (function, parameter) == ("small.config", "intermediate_size"):
        return value is None or whole(value)
    if (function, parameter) in (("KVCache.append", "k"), ("KVCache.append", "c")):
        return floats(value) and value.dtype.name == good.dtype.name
    return ALLOWED[parameter](value)


# ---- values of every kind

FOREIGN = [
    *CONFIGS.values(),
    *PARAMS.values(),
    *(saved for _, saved in FORWARD.values()),
    *(LM, LM_SAVED, LOSS_SAVED, CORE, LM_PARAMS, GTA_1B, STRUCTURE, H100, NEW, CACHED, RUN, SETTINGS, TEXT),
    *(KVCache(CACHED, 2, 4), *(new_cache(name) for name in ("gta", "mla"))),
    *(Mask(), Mask(q_start=1), Mask(k_start=[0, 1]), Mask(k_stop=[9, 9]), Mask(k_start=[0, 1, 2])),
    *(np.random.default_rng(3), np.random.RandomState(3), np.random, np.float32, np.float32(2), np.float16(-1)),
    *(
        np.complex64(1),
        np.bool_(True),
        np.int8(3),
        np.uint64(2**63),
        np.datetime64("2026-01-01"),
        np.timedelta64(3, "s"),
    ),
    *(np.array(3), np.array(3.0), np.array(2**63, np.uint64), np.array([2**63], np.uint64), np.array(1j)),
    *(object(), object, len, lambda: 0, Ellipsis, NotImplemented, range(3), slice(3), {1, 2}, iter([1])),
    *([[1], [1, 2]], [[1, 2], [3, 4]], ["a"], {"k": 1}, {1: 2, "a": 3}, {"k": (1, 2, 3)}, {"k": (-1, 2)}),
    *(np.dtype("float32"), np.dtype("int8"), np.dtype(complex), "float64", "bfloat16", "numba", "cuda", b"float32"),
    *({"mechanism": 3}, {"mechanism": "gta", 3: 4}, MappingProxyType(PARAMS["gta"]), ValueError("x")),
]
EDGES = [
    0,
    -1,
    1,
    2**31,
    2**62,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**70,
    10**400,
    -(10**400),
    10**4000,
]  # the oldest hypothesis cannot show longer ones
DTYPES = [*FLOAT_DTYPES[:3], "complex128", "complex64", "int64", "int8", "uint64", "bool", "object", "U1", "M8[s]"]

ARRAYS = st.builds(
    np.zeros, st.lists(st.integers(0, 4), max_size=4).map(tuple), st.sampled_from([np.dtype(d) for d in DTYPES])
)
VALUES = st.one_of(
    st.sampled_from(EDGES),
    st.sampled_from(FOREIGN),
    st.integers(-9, 70),
    st.floats(),
    st.complex_numbers(),
    st.sampled_from([None, True, False]),
    st.text(max_size=4),
    st.binary(max_size=3),
    ARRAYS,
    st.lists(st.one_of(st.sampled_from(EDGES), st.integers(-3, 3), st.none(), st.floats()), max_size=4),
    st.tuples(st.integers(-3, 3)),
)


def changed_array(draw, x):
    other = np.dtype(draw(st.sampled_from(DTYPES[:-1])))
    return draw(
        st.sampled_from([x.T, x[:1], x[..., :-1], x[None], x.astype(other), x.astype(">f4"), x.tolist(), x.ravel()])
    )


def changed(draw, good):
    """A value that is nearly right."""
    if isinstance(good, np.ndarray):
        return changed_array(draw, good)
    if isinstance(good, Mapping) and good:
        name = draw(st.sampled_from(sorted(good)))
        rest = {key: value for key, value in good.items() if key != name}
        inner = draw(VALUES) if draw(st.booleans()) else changed(draw, good[name])
        return draw(
            st.sampled_from([rest, {**good, name: inner}, {**good, 3: good[name]}, {**good, "new": good[name]}])
        )
    if isinstance(good, (list, tuple)) and type(good) in (list, tuple) and good:
        return draw(st.sampled_from([good[:-1], [*good, good[0]], [good[0]] * len(good), [*good[:-1], None]]))
    return draw(VALUES)


def refused(message, function, *arguments, **options):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)
