"""DeepSeek-V3's FP8 matrices: multiplied out block by block, read from a file, and every fault named."""

import ml_dtypes
import numpy as np
import pytest

from gta_ref import files
from gta_ref.weights import fp8
from gta_ref.weights.llama_deepseek import load_deepseek_attention, load_llama_attention
from gta_ref.weights.official import read_state

E4M3 = ml_dtypes.float8_e4m3fn
QUANTISATION = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[4, 8])
CONFIG = dict(
    hidden_size=24,
    num_attention_heads=4,
    q_lora_rank=9,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    quantization_config=QUANTISATION,
)
SHAPES = {
    "q_a_proj": (9, 24),
    "q_b_proj": (40, 9),
    "kv_a_proj_with_mqa": (14, 24),
    "kv_b_proj": (44, 10),
    "o_proj": (24, 20),
}


def state_of(rng, block=(4, 8)):
    """A layer as DeepSeek publishes it, and its matrices multiplied out element by element."""
    state, plain = {}, {}
    for name, shape in SHAPES.items():
        x = rng.standard_normal(shape).astype(E4M3)
        factors = rng.uniform(0.5, 2.0, [-(-n // b) for n, b in zip(shape, block, strict=True)]).astype(np.float32)
        state |= {f"{name}.weight": x, f"{name}.weight_scale_inv": factors}
        plain[f"{name}.weight"] = np.array(
            [
                [np.float32(x[i, j]) * factors[i // block[0], j // block[1]] for j in range(shape[1])]
                for i in range(shape[0])
            ]
        )
    for name, width in (("q_a_layernorm", 9), ("kv_a_layernorm", 10)):
        state[f"{name}.weight"] = rng.standard_normal(width).astype(ml_dtypes.bfloat16)
        plain[f"{name}.weight"] = state[f"{name}.weight"].astype(np.float32)
    return state, plain


def test_the_layer_is_that_of_the_matrices_multiplied_out(rng):
    state, plain = state_of(rng)
    config, params = load_deepseek_attention(state, CONFIG)
    want_config, want = load_deepseek_attention(plain, {**CONFIG, "quantization_config": None})
    assert config == want_config
    for name, x in want.items():
        assert params[name].dtype == np.float32
        np.testing.assert_array_equal(params[name], x, err_msg=name)


def test_blocks_of_128_by_default(rng):
    x = rng.standard_normal((130, 257)).astype(E4M3)
    factors = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    state = {"w.weight": x, "w.weight_scale_inv": factors}
    found = fp8.dequantised("x", state, {"quantization_config": {"quant_method": "fp8"}})
    assert found.keys() == {"w.weight"}
    ratio = found["w.weight"] / np.where(x == 0, 1, x.astype(np.float32))
    for i, j, want in ((0, 0, 1), (127, 128, 2), (128, 127, 4), (129, 256, 6), (127, 256, 3)):
        assert ratio[i, j] == want


def test_a_file_with_fp8_is_read(tmp_path, rng):
    state, _ = state_of(rng)
    files.write_tensors(tmp_path / "a.safetensors", state, {"note": "kept"})
    tensors, metadata = files.read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"note": "kept"}
    for found in (tensors, read_state(tmp_path)):
        assert found.keys() == state.keys()
        for name, x in state.items():
            assert found[name].dtype == x.dtype
            assert found[name].tobytes() == x.tobytes(), name
    whole = (tmp_path / "a.safetensors").read_bytes()
    for n in range(0, len(whole), 97):
        (tmp_path / "a.safetensors").write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"a\.safetensors: not a complete safetensors file"):
            files.read_tensors(tmp_path / "a.safetensors")


def test_without_fp8_nothing_is_touched(rng):
    _, plain = state_of(rng)
    assert fp8.dequantised("x", plain, CONFIG) is plain
    state = {name: x.astype(np.float64) for name, x in plain.items()}
    assert load_deepseek_attention(state, CONFIG)[1]["w_o"].dtype == np.float64


@pytest.mark.parametrize(
    "change, config, message",
    [
        ({"o_proj.weight_scale_inv": None}, {}, r"missing o_proj\.weight_scale_inv$"),
        ({"o_proj.weight": None}, {}, r"o_proj\.weight_scale_inv has no float8_e4m3fn tensor o_proj\.weight$"),
        (
            {"o_proj.weight_scale_inv": np.ones((6, 2), np.float32)},
            {},
            r"o_proj\.weight_scale_inv has shape \(6, 2\); expected \(6, 3\)",
        ),
        ({"o_proj.weight_scale_inv": np.ones((6, 3))}, {}, "has dtype float64; expected finite float32 numbers"),
        ({"o_proj.weight_scale_inv": np.full((6, 3), np.inf, np.float32)}, {}, "has values that are not finite; exp"),
        ({"o_proj.weight": np.full((24, 20), np.nan).astype(E4M3)}, {}, r"o_proj\.weight has values that are not fin"),
        ({"o_proj.weight": np.zeros(3, E4M3)}, {}, r"o_proj\.weight has shape \(3,\); expected a matrix"),
        ({"kv_a_layernorm.weight": np.zeros(10)}, {}, "has dtype float64; expected bfloat16, float16 or float32"),
        ({"o_proj.weight": np.zeros((24, 20), ml_dtypes.float8_e5m2)}, {}, "has no float8_e4m3fn tensor"),
        ({}, {"quantization_config": None}, "is float8_e4m3fn; expected a quantization_config in the configuration"),
        ({}, {"quantization_config": 8}, "quantization_config is a int; expected a mapping"),
        ({}, {"quantization_config": {"quant_method": "gptq"}}, "quant_method='gptq' must be 'fp8'"),
        ({}, {"quantization_config": {"fmt": "e5m2"}}, "fmt='e5m2' must be 'e4m3'"),
        ({}, {"quantization_config": {"scale_fmt": "ue8m0"}}, "quantization_config: unknown scale_fmt='ue8m0'"),
        ({}, {"quantization_config": {"weight_block_size": 128}}, "weight_block_size=128 must be a list of two"),
        (
            {},
            {"quantization_config": {"weight_block_size": [4, 0]}},
            r"weight_block_size\[1\]=0 must be a whole number",
        ),
    ],
)
def test_faults_are_named(change, config, message, rng):
    state = {**state_of(rng)[0], **change}
    state = {name: x for name, x in state.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        load_deepseek_attention(state, {**CONFIG, **config})


def test_other_loaders_refuse_fp8_by_its_dtype(rng):
    state = {f"{n}_proj.weight": np.zeros((8, 8), E4M3) for n in "qkvo"}
    with pytest.raises(ValueError, match="Llama state: dtype float8_e4m3fn; expected one of float64, float32, float16"):
        load_llama_attention(state, dict(hidden_size=8, num_attention_heads=2))
    with pytest.raises(ValueError, match="Llama config: unknown quantization_config="):
        load_llama_attention(state, dict(hidden_size=8, num_attention_heads=2, quantization_config=QUANTISATION))
