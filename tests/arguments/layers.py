"""Public functions of the core, the cache, the mechanisms and the language model, with arguments that are right.

Each entry is a function and a function that makes its arguments; what a call changes is made anew.
"""

import dataclasses

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.lm import generate, model, small, train
from gta_ref.lm import text as texts
from gta_ref.mechanisms import load
from tests.support import small_configs

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
CACHED = {"k": (2, 4), "c": (1, 6)}
NEW = {"k": np.ones((2, 2, 1, 4), np.float32), "c": np.ones((2, 1, 1, 6), np.float32)}
TEXT = texts.Text("letters", np.arange(90, dtype=np.uint8) % 11, np.arange(30, dtype=np.uint8) % 11, 11)
SETTINGS = train.Settings(steps=2, batch=2, length=4, validation_sequences=2)
RUN = train.begin(LM, SETTINGS, TEXT)
DONE = train.Run(LM, SETTINGS, "letters", train.State(2, LM_PARAMS, RUN.state.moments), [2.0, 2.0], {2: 2.0})


def new_cache(name, batch=2):
    return KVCache(load(name).structure(CONFIGS[name]).cached, batch, 5)


def mechanism_functions(name):
    m, config = load(name), CONFIGS[name]
    options = {"engine": "reference", "trace": None}
    way = {"absorb": True} if name == "mla" else {}
    forward = {"params": PARAMS[name], "x": X, "config": config, "positions": None, "mask": None}
    found = {
        "Config": (m.Config, lambda: dataclasses.asdict(config)),
        "param_shapes": (m.param_shapes, lambda: {"config": config}),
        "structure": (m.structure, lambda: {"config": config, **way}),
        "small_sizes": (m.small_sizes, lambda: {"n_heads": 8, "head_dim": 4}),
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
        "backward": (model.backward, lambda: {"dlogits": LOGITS, "saved": LM_SAVED, "frozen": False}),
        "loss_forward": (model.loss_forward, lambda: {**forward, **options, "positions": None, "targets": IDS}),
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


def use_functions():
    """Text from a model, its training, and small models."""
    of_model = {"params": LM_PARAMS, "ids": IDS, "config": LM, "n_tokens": 2, "engine": "reference"}
    of_run = {"run": RUN, "source": TEXT, "engine": "reference"}
    sampling = {"temperature": 0.7, "top_p": 0.9}

    def two_tokens(n_tokens, **more):  # a right number may be larger than there is time for
        few = 2 if type(n_tokens) is int and 2 < n_tokens < 2**63 else n_tokens
        return generate.greedy(n_tokens=few, **more)

    return {
        "generate.greedy": (two_tokens, lambda: {**of_model, "k_start": None}),
        "generate.stream": (
            generate.stream,
            lambda: {**of_model, "ids": [3, 1], "caches": None, **sampling, "seed": 0, "ends": (1, 2)},
        ),
        "generate.draw": (
            generate.draw,
            lambda: {"logits": LOGITS[0, 0], **sampling, "rng": np.random.default_rng(1)},
        ),
        "generate.check_sampling": (generate.check_sampling, lambda: sampling),
        "train.Settings": (train.Settings, lambda: dataclasses.asdict(SETTINGS)),
        "train.begin": (train.begin, lambda: {"config": LM, "settings": SETTINGS, "source": TEXT}),
        "train.take_step": (train.take_step, lambda: {**of_run, "gradient": train.loss_and_gradient}),
        "train.validation_loss": (train.validation_loss, lambda: of_run),
        "train.is_unvalidated": (train.is_unvalidated, lambda: {"run": RUN}),
        "train.advance": (
            train.advance,
            lambda: {
                **of_run,
                "run": DONE,
                "gradient": train.loss_and_gradient,
                "on_step": None,
                "on_validation": None,
            },
        ),
        "small.config": (
            small.config,
            lambda: (
                {"name": "gta", "vocab_size": 11, "hidden_size": 16, "n_heads": 4, "n_layers": 2}
                | {"intermediate_size": None}
            ),
        ),
        "small.n_parameters": (small.n_parameters, lambda: {"config": LM}),
    }


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
