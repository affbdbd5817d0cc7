"""Wrong arguments of the public functions: every parameter of each is given values of every kind, and either it refuses
them with one line of its own, or they are of a kind that its documentation allows."""

import copy
import dataclasses
import inspect
import operator
import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gta_ref.cache import KVCache
from gta_ref.core import EngineError, Mask, attention_backward, attention_forward
from gta_ref.core.engines import ENGINES
from gta_ref.costs import flops, frontier, hardware, llm_viewer, memory, operators, roofline
from gta_ref.costs.model import Model
from gta_ref.costs.summary import summary
from gta_ref.lm import model
from gta_ref.mechanisms import NAMES, load
from gta_ref.mechanisms.headwise_config import HeadwiseConfig
from gta_ref.ops.arrays import FLOAT_DTYPES
from tests.support import small_configs

EXAMPLES = 160  # per function of the table below
LEAST_CALLS = 10_000
LARGEST = 2**63 - 1
LONGEST = 1200  # characters of a message: two lists of a model's long names are the longest

PRESETS = {"gta": "gta-1b", "gqa": "gqa-1b", "mla": "deepseek-v2"}
CONFIGS = small_configs(8, 4, 4)
RNG = np.random.default_rng(5)
PARAMS = {name: load(name).init(config, RNG) for name, config in CONFIGS.items()}
X = RNG.standard_normal((2, 3, 8), dtype=np.float32)
FORWARD = {name: load(name).forward(PARAMS[name], X, config, engine="reference") for name, config in CONFIGS.items()}
Q, K, V = RNG.standard_normal((2, 4, 3, 6)), RNG.standard_normal((2, 2, 3, 6)), RNG.standard_normal((2, 1, 3, 5))
Z, LSE, CORE = attention_forward(Q, K, V, engine="reference")
LM = model.Config(11, 2, 6, CONFIGS["gta"])
LM_PARAMS = model.init(LM, RNG)
IDS = RNG.integers(0, 11, (2, 3))
LOGITS, LM_SAVED = model.forward(LM_PARAMS, IDS, LM)
LOSS_SAVED = model.loss_forward(LM_PARAMS, IDS, LM)[1]
GTA_1B = Model.preset("gta-1b")
STRUCTURE = GTA_1B.structure
H100 = hardware.get("h100")
CACHED = {"k": (2, 4), "c": (1, 6)}
NEW = {"k": np.ones((2, 2, 1, 4), np.float32), "c": np.ones((2, 1, 1, 6), np.float32)}


def new_cache(name, batch=2):
    return KVCache(load(name).structure(CONFIGS[name]).cached, batch, 5)


# ---- the public functions, each with arguments that are right; what a call changes is made anew


def mechanism_functions(name):
    m, config = load(name), CONFIGS[name]
    options = {"engine": "reference", "trace": None}
    way = {"absorb": True} if name == "mla" else {}
    forward = {"params": PARAMS[name], "x": X, "config": config, "positions": None, "mask": None}
    found = {
        "Config": (m.Config, lambda: dataclasses.asdict(config)),
        "param_shapes": (m.param_shapes, lambda: {"config": config}),
        "structure": (m.structure, lambda: {"config": config, **way}),
        "init": (m.init, lambda: {"config": config, "rng": np.random.default_rng(1), "dtype": "float32"}),
        "forward": (m.forward, lambda: {**forward, **options, "need_saved": True, **way}),
        "backward": (m.backward, lambda: {"dout": X, "saved": FORWARD[name][1], "trace": None}),
        "decode": (
            m.decode,
            lambda: {"params": PARAMS[name], "x": X, "cache": new_cache(name), "config": config, **options, **way},
        ),
    }
    if name in PRESETS:
        found["Config.preset"] = m.Config.preset, lambda: {"name": PRESETS[name]}
    if name == "gta":
        found["forward_unabsorbed"] = m.forward_unabsorbed, lambda: forward
        found["fold_residual"] = m.fold_residual, lambda: {"params": PARAMS[name], "config": config}
    return {f"{name}.{function}": pair for function, pair in found.items()}


def model_functions():
    forward = {"params": LM_PARAMS, "ids": IDS, "config": LM}
    options = {"mask": None, "engine": "reference"}
    found = {
        "Config": (model.Config, lambda: {f.name: getattr(LM, f.name) for f in dataclasses.fields(LM)}),
        "param_shapes": (model.param_shapes, lambda: {"config": LM}),
        "init": (model.init, lambda: {"config": LM, "rng": np.random.default_rng(1), "dtype": "float32"}),
        "forward": (
            model.forward,
            lambda: {**forward, **options, "positions": None, "need_saved": False, "last": False},
        ),
        "layer_traces": (lambda **arguments: list(model.layer_traces(**arguments)), lambda: forward),
        "backward": (model.backward, lambda: {"dlogits": LOGITS, "saved": LM_SAVED}),
        "loss_forward": (model.loss_forward, lambda: {**forward, **options, "targets": IDS}),
        "loss_backward": (model.loss_backward, lambda: {"saved": LOSS_SAVED, "dloss": 1.0}),
        "new_caches": (
            model.new_caches,
            lambda: {"config": LM, "batch": 2, "capacity": 5, "dtype": "float32", "k_start": None, "like": None},
        ),
        "decode": (
            model.decode,
            lambda: {**forward, "caches": model.new_caches(LM, 2, 5), "engine": "reference", "last": False},
        ),
    }
    return {f"model.{function}": pair for function, pair in found.items()}


def core_functions():
    bounds = {"q_start": 0, "k_start": None, "k_stop": [3, 3]}
    return {
        "attention_forward": (
            attention_forward,
            lambda: (
                {"q": Q, "k": K, "v": V, "mask": None, "scale": None, "engine": "reference"}
                | {"need_saved": True, "trace": None}
            ),
        ),
        "attention_backward": (attention_backward, lambda: {"dz": Z, "saved": CORE, "dlse": None, "trace": None}),
        "Mask": (Mask, lambda: {"causal": True, **bounds}),
        "Mask.to_dense": (Mask(**bounds).to_dense, lambda: {"n_queries": 3, "n_keys": 3}),
        "Mask.resolve": (Mask(**bounds).resolve, lambda: {"batch": 2, "n_queries": 3, "n_keys": 3}),
        "Mask.positions": (Mask(**bounds).positions, lambda: {"batch": 2, "n_queries": 3, "n_keys": 3}),
        "Mask, used": (
            lambda **arguments: attention_forward(Q, K, V, mask=Mask(**arguments), engine="reference"),
            lambda: bounds,
        ),
        "KVCache": (
            KVCache,
            lambda: {"cached": CACHED, "batch": 2, "capacity": 4, "dtype": "float32", "k_start": None, "like": None},
        ),
        "KVCache.append": (lambda **new: KVCache(CACHED, 2, 4).append(**new), lambda: NEW),
        "KVCache.truncate": (KVCache(CACHED, 2, 4).truncate, lambda: {"length": 0}),
        "KVCache.next_mask": (KVCache(CACHED, 2, 4).next_mask, lambda: {"x": X}),
    }


def cost_functions():
    sizes = {"batch": 2, "length": 8}
    return {
        "mechanisms.load": (load, lambda: {"name": "gta"}),
        "pairs": (flops.pairs, lambda: {"new": 3, "held": 2, "causal_saving": True}),
        "attention_layer": (
            flops.attention_layer,
            lambda: {"structure": STRUCTURE, "new": 3, "held": 2, "causal_saving": True},
        ),
        "forward_macs": (
            flops.forward_macs,
            lambda: {"model": GTA_1B, "batch": 1, "new": 3, "held": 2, "causal_saving": True, "all_logits": True},
        ),
        "training_macs": (
            flops.training_macs,
            lambda: {"model": GTA_1B, **sizes, "fused": True, "causal_saving": True},
        ),
        "cache_bytes": (memory.cache_bytes, lambda: {"model": GTA_1B, **sizes, "dtype": "float32"}),
        "weight_bytes": (memory.weight_bytes, lambda: {"model": GTA_1B, "dtype": "float32"}),
        "attention_activations": (
            memory.attention_activations,
            lambda: {"structure": STRUCTURE, **sizes, "fused": True},
        ),
        "training_activations": (memory.training_activations, lambda: {"model": GTA_1B, **sizes, "fused": True}),
        "operators": (
            operators.operators,
            lambda: {"model": GTA_1B, "batch": 2, "new": 3, "held": 2, "fused": True, "itemsize": 2},
        ),
        "operators.attention": (
            operators.attention,
            lambda: {"s": STRUCTURE, "batch": 2, "new": 3, "held": 2, "fused": True},
        ),
        "llm_viewer.operators": (
            llm_viewer.operators,
            lambda: {"model": GTA_1B, **sizes, "prefill": True, "fused": True},
        ),
        "estimate": (
            roofline.estimate,
            lambda: (
                {"model": GTA_1B, "stage": "decode", **sizes, "hardware": H100, "fused": True} | {"convention": "moved"}
            ),
        ),
        "time": (
            roofline.time,
            lambda: {"found": operators.operators(GTA_1B, 1, 2, 3, fused=True), "hardware": H100},
        ),
        "check_fits": (roofline.check_fits, lambda: {"model": GTA_1B, **sizes, "hardware": H100}),
        "speed_ups": (
            frontier.speed_ups,
            lambda: (
                {"model": GTA_1B, "baseline": GTA_1B, "hardware": H100, "batches": (1, 2), "lengths": (8, 16)}
                | {"convention": "moved"}
            ),
        ),
        "choices": (
            frontier.choices,
            lambda: {"hidden_size": 8, "n_heads": 4, "head_dim": 2, "parameters": 0, "latent_dims": (2, 4)},
        ),
        "summary": (
            summary,
            lambda: (
                {"models": [GTA_1B], **sizes, "hardware": H100, "fused": True, "convention": "moved"}
                | {"dtype": "float32"}
            ),
        ),
        "Hardware": (
            hardware.Hardware,
            lambda: {"name": "x", "peak": 1e12, "bandwidth": 1e9, "memory": None, "source": "a test"},
        ),
        "hardware.get": (hardware.get, lambda: {"text": "h100"}),
        "Model": (
            Model,
            lambda: (
                {"name": "x", "structure": STRUCTURE, "decode_structure": STRUCTURE, "n_layers": 1}
                | {"intermediate_size": 4, "vocab_size": 5, "tied": True}
            ),
        ),
        "Model.of": (Model.of, lambda: {"name": "x", "mechanism": "gta", "attention": CONFIGS["gta"], "n_layers": 2}),
        "Model.preset": (Model.preset, lambda: {"name": "gta-1b"}),
        "Model.from_dict": (Model.from_dict, lambda: {"sizes": {"mechanism": "gqa", "n_k": 5}}),
        "Model.parse": (Model.parse, lambda: {"text": "gqa n_k=5"}),
    }


FUNCTIONS = {key: pair for name in NAMES for key, pair in mechanism_functions(name).items()}
FUNCTIONS |= model_functions() | core_functions() | cost_functions()


# ---- what a parameter may be


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


def number(value):
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    return not isinstance(value, (bool, str, bytes, complex)) and kind in "fiuV" and float(value) > 0


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
]
TEXTS = ["engine", "name", "source", "stage", "convention", "text", "gate", "rope_pairing", "mechanism"]
MODELS = ["model", "baseline"]

ALLOWED = {
    **dict.fromkeys(INTS, whole),
    **dict.fromkeys(BOUNDS, optional(whole_or_integers)),
    **dict.fromkeys(TRUTHS, truth),
    **dict.fromkeys(TEXTS, instance(str)),
    **dict.fromkeys(MODELS, instance(Model)),
    **dict.fromkeys(("structure", "decode_structure", "s"), instance(type(STRUCTURE))),
    **dict.fromkeys(("q", "k", "v", "c", "x"), floats),
    **dict.fromkeys(("rope_theta", "norm_eps", "peak", "bandwidth"), number),
    **dict.fromkeys(("params", "cached", "sizes"), instance(Mapping)),
    **dict.fromkeys(("batches", "lengths", "latent_dims"), rows(whole)),
    "found": rows(instance(operators.Operator)),
    "query_latent_dim": optional(whole),
    "memory": optional(whole),
    "scale": optional(number),
    "dloss": lambda value: not isinstance(value, (bool, str, bytes, complex)) and np.ndim(value) == 0,
    "mask": optional(instance(Mask)),
    "trace": optional(instance(dict)),
    "cache": instance(KVCache),
    "caches": rows(instance(KVCache)),
    "rng": instance(np.random.Generator),
    "dtype": instance(str, type, np.dtype),
    "like": optional(instance(np.ndarray)),
    "positions": optional(integers),
    "ids": instance(np.ndarray),
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
        return isinstance(value, HeadwiseConfig if isinstance(good, HeadwiseConfig) else type(good))
    if (function, parameter) in (("KVCache.append", "k"), ("KVCache.append", "c")):
        return floats(value) and value.dtype.name == good.dtype.name
    return ALLOWED[parameter](value)


# ---- values of every kind

FOREIGN = [
    *CONFIGS.values(),
    *PARAMS.values(),
    *(saved for _, saved in FORWARD.values()),
    *(LM, LM_SAVED, LOSS_SAVED, CORE, LM_PARAMS, GTA_1B, STRUCTURE, H100, NEW, CACHED),
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
EDGES = [0, -1, 1, 2**31, 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**70, 10**400, -(10**400), 10**5000]
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


FORM = re.compile(r"expected|must|missing|unknown|cannot run here|too small|leaves nothing| takes | needs | holds ")


def call(function, arguments):
    """The message with which a call refuses its arguments, or None; any other error of it is raised."""
    try:
        FUNCTIONS[function][0](**arguments)
    except ValueError as error:
        if type(error) not in (ValueError, EngineError):
            raise TypeError(f"{error!r} is neither a plain ValueError nor an EngineError") from error
        return str(error)
    return None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_right_arguments_are_taken(function):
    if function == "gta.fold_residual":
        assert CONFIGS["gta"].decoder_residual
    assert call(function, FUNCTIONS[function][1]()) is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments_are_refused_in_one_line(function):
    make = FUNCTIONS[function][1]
    calls = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        nonlocal calls
        calls += 1
        arguments = make()
        parameter = data.draw(st.sampled_from(sorted(arguments)))
        good = arguments[parameter]
        value = changed(data.draw, good) if data.draw(st.booleans()) else data.draw(VALUES)
        message = call(function, {**arguments, parameter: copy.copy(value) if isinstance(value, dict) else value})
        if message is None:
            assert allowed(function, parameter, value, good), f"{function} took {parameter}={value!r:.80}"
        else:
            assert FORM.search(message), message
            assert "\n" not in message, message
            assert len(message) <= LONGEST, message

    with np.errstate(all="ignore"):
        run()
    assert calls >= EXAMPLES


def test_the_number_of_calls():
    assert len(FUNCTIONS) * EXAMPLES >= LEAST_CALLS


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if not name.startswith(("model.layer", "Mask, used"))])
def test_every_parameter_is_tried(function):
    called, make = FUNCTIONS[function]
    named = {
        name for name, p in inspect.signature(called).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD
    }
    given = set(make())
    assert named <= given, f"{named - given} are never wrong"


# ---- each fault that was found, by example


def refused(message, function, *arguments, **options):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)


@pytest.fixture(params=NAMES)
def case(request):
    name = request.param
    return load(name), CONFIGS[name], PARAMS[name], FORWARD[name][1], new_cache(name)


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
    mechanism, config, params, _, cache = case
    others = [other for other in CONFIGS.values() if not isinstance(config, type(other).__mro__[-2])]
    for wrong in (*others, LM, 3, None, dataclasses.asdict(config)):
        message = "config is .*; expected (a|the) .*Config"
        refused(message, mechanism.forward, params, X, wrong)
        refused(message, mechanism.decode, params, X, cache, wrong)
        refused(message, mechanism.init, wrong, np.random.default_rng(0))
        refused(message, mechanism.structure, wrong)
        refused(message, mechanism.param_shapes, wrong)
    assert others


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
