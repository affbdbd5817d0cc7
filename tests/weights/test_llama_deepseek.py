"""Llama's and DeepSeek's attention from their state dicts, compared with a plain computation from the tensors.

The plain computations use nothing of this library: x @ W.T, heads extracted row by row, loops over heads.
"""

import ml_dtypes
import numpy as np
import pytest

from gta_ref.mechanisms import gqa, mha, mla
from gta_ref.weights import llama_deepseek
from tests.weights.fields import DEEPSEEK

LLAMA = dict(hidden_size=24, num_attention_heads=6, num_key_value_heads=2, rope_theta=500.0)
# one order of float64 sums against another: some tens of terms of size 1
SAME = dict(rtol=0, atol=1e-12)


def llama_state(config, rng, biases=()):
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    n_k = config.get("num_key_value_heads") or config["num_attention_heads"]
    widths = {"q": config["num_attention_heads"] * head_dim, "k": n_k * head_dim, "v": n_k * head_dim}
    state = {f"{n}_proj.weight": rng.standard_normal((w, config["hidden_size"])) / 5 for n, w in widths.items()}
    state["o_proj.weight"] = rng.standard_normal((config["hidden_size"], widths["q"])) / 5
    for name in biases:
        state[f"{name}_proj.bias"] = rng.standard_normal(widths.get(name, config["hidden_size"]))
    return state


def deepseek_state(config, rng):
    n, hidden = config["num_attention_heads"], config["hidden_size"]
    d_nope, d_rope, d_v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    d_c, rank = config["kv_lora_rank"], config["q_lora_rank"]
    shapes = {
        "kv_a_proj_with_mqa.weight": (d_c + d_rope, hidden),
        "kv_a_layernorm.weight": (d_c,),
        "kv_b_proj.weight": (n * (d_nope + d_v), d_c),
        "o_proj.weight": (hidden, n * d_v),
    }
    if rank is None:
        shapes["q_proj.weight"] = (n * (d_nope + d_rope), hidden)
    else:
        shapes["q_a_proj.weight"] = (rank, hidden)
        shapes["q_a_layernorm.weight"] = (rank,)
        shapes["q_b_proj.weight"] = (n * (d_nope + d_rope), rank)
    return {name: rng.standard_normal(shape) / (1 if len(shape) == 1 else 3) for name, shape in shapes.items()}


def rope(x, theta, interleaved):
    """Rotate each row of x (N, d) by the angles of its row number."""
    d = x.shape[1]
    angle = np.arange(len(x))[:, None] * theta ** (-np.arange(0, d, 2) / d)  # (N, d/2)
    a, b = (x[:, 0::2], x[:, 1::2]) if interleaved else (x[:, : d // 2], x[:, d // 2 :])
    turned = np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])
    return turned.transpose(1, 2, 0).reshape(x.shape) if interleaved else np.concatenate(list(turned), axis=1)


def causal_attention(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[1])
    scores[np.triu_indices(len(q), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v


def plain_llama(state, config, x):
    n_h = config["num_attention_heads"]
    d = len(state["q_proj.weight"]) // n_h
    per_key = n_h * d // len(state["k_proj.weight"])  # query heads per key head
    q, k, v = (x @ state[f"{n}_proj.weight"].T + state.get(f"{n}_proj.bias", 0.0) for n in "qkv")
    heads = []
    for i in range(n_h):
        own, shared = slice(i * d, (i + 1) * d), slice(i // per_key * d, (i // per_key + 1) * d)
        q_i, k_i = rope(q[:, own], config["rope_theta"], False), rope(k[:, shared], config["rope_theta"], False)
        heads.append(causal_attention(q_i, k_i, v[:, shared]))
    return np.concatenate(heads, axis=1) @ state["o_proj.weight"].T + state.get("o_proj.bias", 0.0)


def plain_deepseek(state, config, x, interleaved):
    n_h, d_nope, d_rope = (config[n] for n in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim"))
    d_v, d_c, theta = config["v_head_dim"], config["kv_lora_rank"], config["rope_theta"]

    def norm(y, gain):
        return y / np.sqrt((y**2).mean(axis=1, keepdims=True) + 1e-6) * gain

    if config["q_lora_rank"] is None:
        q = x @ state["q_proj.weight"].T
    else:
        q = norm(x @ state["q_a_proj.weight"].T, state["q_a_layernorm.weight"]) @ state["q_b_proj.weight"].T
    compressed = x @ state["kv_a_proj_with_mqa.weight"].T
    kv = norm(compressed[:, :d_c], state["kv_a_layernorm.weight"]) @ state["kv_b_proj.weight"].T
    k_rope = rope(compressed[:, d_c:], theta, interleaved)
    heads = []
    for i in range(n_h):
        q_i = q[:, i * (d_nope + d_rope) : (i + 1) * (d_nope + d_rope)]
        kv_i = kv[:, i * (d_nope + d_v) : (i + 1) * (d_nope + d_v)]
        q_i = np.concatenate([q_i[:, :d_nope], rope(q_i[:, d_nope:], theta, interleaved)], axis=1)
        k_i = np.concatenate([kv_i[:, :d_nope], k_rope], axis=1)
        heads.append(causal_attention(q_i, k_i, kv_i[:, d_nope:]))
    return np.concatenate(heads, axis=1) @ state["o_proj.weight"].T


LLAMAS = {
    "grouped": (LLAMA, ""),
    "MHA by default": ({**LLAMA, "num_key_value_heads": None}, ""),
    "MQA": ({**LLAMA, "num_key_value_heads": 1}, ""),
    "head_dim given": ({**LLAMA, "head_dim": 6}, ""),
    "head_dim null": ({**LLAMA, "head_dim": None}, ""),
    "biases": ({**LLAMA, "attention_bias": True}, "qkvo"),
    "qwen2": ({**LLAMA, "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}, "qkv"),
    "qwen2 that says it": ({**LLAMA, "model_type": "qwen2", "attention_bias": True}, "qkv"),
    "new file": ({**LLAMA, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}, ""),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_llama_against_the_plain_computation(name, rng):
    config_dict, biases = LLAMAS[name]
    state = llama_state(config_dict, rng, biases)
    config, params = llama_deepseek.load_llama_attention(state, config_dict)
    assert isinstance(config, gqa.Config)
    assert list(params) == list(gqa.param_shapes(config))
    x = rng.standard_normal((2, 7, 24))
    out, _ = gqa.forward(params, x, config)
    np.testing.assert_allclose(out, [plain_llama(state, config_dict, row) for row in x], **SAME)


@pytest.mark.parametrize("interleave", [True, False, None], ids=["interleaved", "half", "by default"])
@pytest.mark.parametrize("rank", [9, None], ids=["query compression", "q_proj"])
def test_deepseek_against_the_plain_computation(rank, interleave, rng):
    config_dict = {**DEEPSEEK, "q_lora_rank": rank}
    if interleave is not None:
        config_dict["rope_interleave"] = interleave
    state = deepseek_state(config_dict, rng)
    config, params = llama_deepseek.load_deepseek_attention(state, config_dict)
    assert list(params) == list(mla.param_shapes(config))
    x = rng.standard_normal((2, 7, 24))
    want = [plain_deepseek(state, config_dict, row, interleave is not False) for row in x]
    for absorb in (False, True):
        out, _ = mla.forward(params, x, config, absorb=absorb)
        np.testing.assert_allclose(out, want, **SAME)


def same(got, want):
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == x.dtype, name
        assert got[name].flags.c_contiguous, name
        np.testing.assert_array_equal(got[name], x)


LOADERS = {
    "llama": (llama_deepseek.load_llama_attention, llama_deepseek.save_llama_attention, LLAMA, llama_state, gqa),
    "deepseek": (llama_deepseek.load_deepseek_attention, llama_deepseek.save_deepseek_attention, DEEPSEEK, deepseek_state, mla),
    "deepseek, q_proj": (
        llama_deepseek.load_deepseek_attention,
        llama_deepseek.save_deepseek_attention,
        {**DEEPSEEK, "q_lora_rank": None, "rope_interleave": False},
        deepseek_state,
        mla,
    ),
}  # fmt: skip


@pytest.fixture(params=LOADERS)
def loader(request):
    return LOADERS[request.param]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16], ids=str)
def test_there_and_back(loader, dtype, rng):
    load, save, config_dict, make, _ = loader
    state = {name: x.astype(dtype) for name, x in make(config_dict, rng).items()}
    config, params = load(state, config_dict)
    assert all(p.dtype == dtype and p.flags.c_contiguous for p in params.values())
    same(save(params, config), state)


def test_biases_go_there_and_back(rng):
    for name in ("biases", "qwen2"):
        config_dict, biases = LLAMAS[name]
        state = llama_state(config_dict, rng, biases)
        config, params = llama_deepseek.load_llama_attention(state, config_dict)
        same(llama_deepseek.save_llama_attention(params, config), state)


def test_mha_saves_as_llama(rng):
    config = mha.Config(24, 6, 4, rope_theta=500.0)
    params = mha.init(config, rng, "float64")
    state = llama_deepseek.save_llama_attention(params, config)
    back, loaded = llama_deepseek.load_llama_attention(state, {**LLAMA, "num_key_value_heads": 6})
    same(loaded, params)
    x = rng.standard_normal((1, 5, 24))
    np.testing.assert_array_equal(gqa.forward(loaded, x, back)[0], mha.forward(params, x, config)[0])


def test_gradients_turn_the_same_way(loader, rng):
    """Along a random change of the foreign tensors, the saved gradients predict the change of Σ dout ⊙ out."""
    load, save, config_dict, make, mechanism = loader
    state = make(config_dict, rng)
    x, dout = rng.standard_normal((2, 6, 24)), rng.standard_normal((2, 6, 24))
    config, params = load(state, config_dict)
    _, saved = mechanism.forward(params, x, config)
    grads = save(mechanism.backward(dout, saved)[1], config)
    step = {name: rng.standard_normal(p.shape) for name, p in state.items()}

    def value(h):
        moved = {name: p + h * step[name] for name, p in state.items()}
        return np.vdot(dout, mechanism.forward(load(moved, config_dict)[1], x, config)[0])

    measured = (8 * (value(1e-4) - value(-1e-4)) - (value(2e-4) - value(-2e-4))) / 12e-4
    terms = [np.vdot(grads[name], step[name]) for name in state]
    # rounding leaves 1e-16 / 1e-4 of the output in the difference, the method's own error is O(h⁴)
    assert abs(sum(terms) - measured) <= 1e-9 * np.linalg.norm(terms)


def test_loaded_and_saved_are_copies(loader, rng):
    load, save, config_dict, make, _ = loader
    # of arrays in column order the transpose is in row order already, so a copy would not be necessary
    state = {name: np.asfortranarray(x) for name, x in make(config_dict, rng).items()}
    before = {name: x.copy() for name, x in state.items()}
    config, params = load(state, config_dict)
    again = {name: x.copy() for name, x in params.items()}
    for x in save(params, config).values():
        x[...] = 0
    same(params, again)
    for p in params.values():
        p[...] = 0
    for name, x in before.items():
        np.testing.assert_array_equal(state[name], x)


def test_every_fault_is_named(rng):
    state = llama_state(LLAMA, rng)
    del state["v_proj.weight"]
    state["q_proj.bias"] = np.zeros(24)  # attention_bias is false
    state["k_proj.weight"] = state["k_proj.weight"][:-1]
    state["o_proj.weight"] = state["o_proj.weight"].astype("float32")
    with pytest.raises(ValueError, match=r"Llama state: missing v_proj\.weight; unknown q_proj\.bias; dtypes float32, float64 are mixed.*; k_proj\.weight has shape \(7, 24\); expected \(8, 24\)$"):  # fmt: skip
        llama_deepseek.load_llama_attention(state, LLAMA)
    with pytest.raises(ValueError, match=r"missing q_proj\.bias; missing k_proj\.bias; .*; missing o_proj\.bias$"):
        llama_deepseek.load_llama_attention(llama_state(LLAMA, rng), {**LLAMA, "attention_bias": True})
    state = deepseek_state(DEEPSEEK, rng)
    state["kv_b_proj.weight"] = state["kv_b_proj.weight"].T
    state["q_proj.weight"] = state.pop("q_b_proj.weight")
    with pytest.raises(ValueError, match=r"DeepSeek state: missing q_b_proj\.weight; unknown q_proj\.weight; kv_b_proj\.weight has shape \(10, 44\); expected \(44, 10\)$"):  # fmt: skip
        llama_deepseek.load_deepseek_attention(state, DEEPSEEK)
