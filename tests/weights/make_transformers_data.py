"""Run Hugging Face's own attention layers and models in float64 and keep what went in and came out, as data for tests.

It was run once, with the versions that each file's metadata names, and is kept so that it can be run again:

    python3 -m venv hf && hf/bin/pip install torch==2.13.0 transformers==5.24.0
    hf/bin/python tests/weights/make_transformers_data.py tests/data/transformers

Their code computes RMSNorms, softmax and the angles of RoPE in float32, whatever the dtype of the model. Here
torch.float32 and Tensor.float stand for float64 while it runs, so that all of it is float64.

A file of a layer has the tensors param.… (float32), input.x and input.d_out (float32), output.out, grad.x and grad.…
(float64); a file of a model has param.…, input.ids and output.logits. Its metadata hold the configuration as
config.json would have it. counts.json has the numbers of parameters of published models, whose modules are built
without memory for their weights.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")
save_file: Any = importlib.import_module("safetensors.numpy").save_file

SMALL: dict[str, Any] = dict(
    hidden_size=20,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=16,
    num_hidden_layers=2,
    vocab_size=23,
    max_position_embeddings=64,
    rms_norm_eps=0.01,  # so large that another value would be seen
)
PLAIN = dict(rope_theta=500.0, rope_type="default")
LINEAR = dict(rope_theta=500.0, rope_type="linear", factor=3.0)
LLAMA3 = dict(
    rope_theta=500.0,
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_theta=500.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
MSCALE = dict(YARN, factor=40.0, mscale=1.0, mscale_all_dim=1.0)
LATENT: dict[str, Any] = dict(
    hidden_size=20,
    num_attention_heads=4,
    num_key_value_heads=4,
    q_lora_rank=9,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=8,
    v_head_dim=5,
    max_position_embeddings=64,
    intermediate_size=8,
    moe_intermediate_size=4,
    n_routed_experts=4,
    n_group=1,
    topk_group=1,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    num_hidden_layers=1,
    vocab_size=23,
)

# name: (class of the configuration, its fields)
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_plain": ("LlamaConfig", dict(SMALL, rope_parameters=PLAIN)),
    "llama_bias": ("LlamaConfig", dict(SMALL, rope_parameters=PLAIN, attention_bias=True)),
    "llama_linear": ("LlamaConfig", dict(SMALL, rope_parameters=LINEAR)),
    "llama_llama3": ("LlamaConfig", dict(SMALL, head_dim=16, rope_parameters=LLAMA3)),
    "llama_yarn": ("LlamaConfig", dict(SMALL, head_dim=16, rope_parameters=YARN)),
    "llama_yarn_options": (
        "LlamaConfig",
        dict(
            SMALL,
            head_dim=16,
            rope_parameters=dict(YARN, beta_fast=4.0, beta_slow=0.5, truncate=False, attention_factor=1.3),
        ),
    ),
    "qwen2": ("Qwen2Config", dict({**SMALL, "hidden_size": 32}, rope_parameters=PLAIN)),
    "qwen3": ("Qwen3Config", dict(SMALL, rope_parameters=PLAIN)),
    "qwen3_bias_yarn": ("Qwen3Config", dict(SMALL, head_dim=16, rope_parameters=YARN, attention_bias=True)),
    "granite": ("GraniteConfig", dict({**SMALL, "hidden_size": 32}, rope_parameters=PLAIN, attention_multiplier=0.3)),
    "stablelm_partial": (
        "StableLmConfig",
        dict(
            {**SMALL, "head_dim": None, "hidden_size": 32},
            rope_parameters=dict(PLAIN, partial_rotary_factor=0.5),
            use_qkv_bias=True,
        ),
    ),
    "glm_partial": (
        "GlmConfig",
        dict(
            {**SMALL, "head_dim": 12},
            rope_parameters=dict(PLAIN, partial_rotary_factor=0.5),
            attention_bias=True,
            pad_token_id=None,
        ),
    ),
    "deepseek_v2": ("DeepseekV2Config", dict(LATENT, rope_parameters=PLAIN)),
    "deepseek_v2_lite_yarn": (
        "DeepseekV2Config",
        dict(LATENT, q_lora_rank=None, rope_parameters=dict(MSCALE, mscale=0.707, mscale_all_dim=0.707)),
    ),
    "deepseek_v3_yarn": ("DeepseekV3Config", dict(LATENT, rope_parameters=MSCALE)),
    "deepseek_v3_yarn_unequal": (
        "DeepseekV3Config",
        dict(LATENT, rope_parameters=dict(MSCALE, mscale=1.4, mscale_all_dim=0.6), rope_interleave=False),
    ),
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "model_llama_llama3": ("LlamaConfig", dict(SMALL, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "model_llama_linear_bias": ("LlamaConfig", dict(SMALL, rope_parameters=LINEAR, attention_bias=True)),
    "model_llama_yarn": ("LlamaConfig", dict(SMALL, rope_parameters=YARN)),
    "model_qwen3": ("Qwen3Config", dict(SMALL, rope_parameters=PLAIN)),
}
# published sizes, as far as they differ from the defaults of the class
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2-135m": (
        "LlamaConfig",
        dict(
            hidden_size=576,
            intermediate_size=1536,
            num_attention_heads=9,
            num_hidden_layers=30,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            vocab_size=49152,
        ),
    ),
    "llama-3-8b": (
        "LlamaConfig",
        dict(hidden_size=4096, intermediate_size=14336, num_key_value_heads=8, vocab_size=128256),
    ),
    "qwen3-0.6b": (
        "Qwen3Config",
        dict(
            hidden_size=1024,
            intermediate_size=3072,
            num_attention_heads=16,
            num_hidden_layers=28,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        ),
    ),
    "deepseek-v2-lite": (
        "DeepseekV2Config",
        dict(
            hidden_size=2048,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            num_hidden_layers=27,
            num_attention_heads=16,
            q_lora_rank=None,
            first_k_dense_replace=1,
            num_experts_per_tok=6,
        ),
    ),
    "deepseek-v3": ("DeepseekV3Config", {}),
}


def in_float64() -> None:
    """Let the casts to float32 in the models' code be casts to float64."""
    torch.float = torch.float32 = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)


def build(config_class: str, sizes: dict[str, Any], seed: int) -> tuple[Any, dict[str, Any]]:
    """A model with random float32 numbers in float64 parameters, gains and biases included, and its config.json."""
    config = getattr(transformers, config_class)(**json.loads(json.dumps(sizes)), attn_implementation="eager")
    written = json.loads(config.to_json_string())
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = generator.standard_normal(p.shape)
            x = 0.5 * x if p.ndim > 1 else x / 2 + ("norm" in name)
            p.copy_(torch.from_numpy(x.astype(np.float32).astype(np.float64)))
    return model, written


def layer(config_class: str, sizes: dict[str, Any], seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """One attention layer: parameters, x, the output and all gradients."""
    model, config = build(config_class, sizes, seed)
    attention, rng = model.model.layers[0].self_attn, np.random.default_rng(seed + 1)
    given = {name: rng.standard_normal((1, 20, sizes["hidden_size"])).astype(np.float32) for name in ("x", "d_out")}
    x = torch.from_numpy(given["x"].astype(np.float64)).requires_grad_()
    positions = torch.arange(20)[None]
    mask = torch.full((1, 1, 20, 20), -torch.inf).triu(1)
    out = attention(hidden_states=x, position_embeddings=model.model.rotary_emb(x, positions), attention_mask=mask)[0]
    out.backward(torch.from_numpy(given["d_out"].astype(np.float64)))
    params = dict(attention.named_parameters())
    return {
        **{f"param.{name}": p.detach().numpy().astype(np.float32) for name, p in params.items()},
        **{f"input.{name}": a for name, a in given.items()},
        "output.out": out.detach().numpy(),
        "grad.x": x.grad.numpy(),
        **{f"grad.{name}": p.grad.numpy() for name, p in params.items()},
    }, config


def whole(config_class: str, sizes: dict[str, Any], seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A whole model: parameters, ids and logits."""
    model, config = build(config_class, sizes, seed)
    ids = np.random.default_rng(seed + 1).integers(0, sizes["vocab_size"], (2, 20))
    with torch.no_grad():
        logits = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
    params = {f"param.{name}": p.detach().numpy().astype(np.float32) for name, p in model.named_parameters()}
    return {**params, "input.ids": ids, "output.logits": logits}, config


def counts() -> dict[str, int]:
    """Numbers of parameters, counted by transformers."""
    found = {}
    for name, (config_class, sizes) in COUNTED.items():
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**sizes))
        found[name] = model.num_parameters()
    return found


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}, float64, CPU"
    (folder / "counts.json").write_text(json.dumps({"source": versions, "parameters": counts()}, indent=2) + "\n")
    in_float64()
    for compute, cases in ((layer, LAYERS), (whole, MODELS)):
        for seed, (name, (config_class, sizes)) in enumerate(cases.items()):
            tensors, config = compute(config_class, sizes, 10 * seed)
            assert all(np.isfinite(x).all() for x in tensors.values())
            about = {"source": f"{config_class.removesuffix('Config')} of {versions}", "config": json.dumps(config)}
            tensors = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
            save_file(tensors, folder / f"{name}.safetensors", about)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
