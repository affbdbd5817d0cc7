"""Attention layers of transformers' models: Llama, Qwen2 and DeepSeek-V3, each with its own RoPE."""

import torch
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from gta_ref.verify.adapters import torch_module

HEADS = 4  # in every case of MLA


def settings(c, kind):
    """What the configs of all models share, from the config of a case."""
    if c.get("rope_pairing", "half") != "half" or {"qk_norm", "gate", "rope_frequencies"} & c.keys():
        raise NotImplementedError("a gate, a norm of q and k, or another RoPE; the layer has none")
    return {
        "hidden_size": c["hidden_size"],
        "num_attention_heads": c["n_heads"],
        "num_key_value_heads": c.get("n_k", c["n_heads"]),
        "attention_bias": c.get("bias", False),
        "rope_parameters": {"rope_type": "default", "rope_theta": c.get("rope_theta", 10000.0)},
        "attn_implementation": kind,
    }


def with_rope(layer, rope, config):
    """The module with the model's RoPE beside it."""
    module = layer(config, 0)
    module.rope = rope(config)
    return module


def call(module, x, seen, positions):
    """Call the layer as its model does; its mask is added."""
    mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min)
    return module(x, position_embeddings=module.rope(x, positions), attention_mask=mask)


def bias(name, weight):
    """A bias that the layer always has, or 0 where the case has none."""
    return lambda p: p[name] if name in p else p[weight].new_zeros(p[weight].shape[1])


def grouped(model, attention, rope, config, kind, always_biased=False):
    """A layer with grouped key and value heads."""

    def make(c):
        if not always_biased and c.get("bias", False) != c.get("output_bias", False):
            raise NotImplementedError("a bias of q, k, v alone; the layer has four or none")
        if always_biased and c.get("output_bias", False):
            raise NotImplementedError("a bias of the output; the layer has none")
        return with_rope(attention, rope, config(**settings(c, kind), head_dim=c["head_dim"]))

    names = {f"{x}_proj.weight": f"w_{x}.T" for x in "qkvo"}
    if always_biased:
        names |= {f"{x}_proj.bias": bias(f"b_{x}", f"w_{x}") for x in "qkv"}
    else:
        names |= {f"{x}_proj.bias": f"b_{x}" for x in "qkvo"}
    return torch_module(make, names, model, mask="seen", positions="positions", call=call)


def by_head(n_heads, *weights):
    """Weights of several projections, joined within each head, as a Linear has them."""
    return torch.cat([w.unflatten(1, (n_heads, -1)) for w in weights], 2).flatten(1).mT


def latent(kind):
    """DeepSeek-V3's layer. Keys without position and values come from one weight, as do the two parts of queries."""

    def make(c):
        if not c.get("latent_norm", True) or c.get("bias") or "score_scale" in c or not c["rope_dim"]:
            raise NotImplementedError(
                "no norm, no RoPE, a bias, or another scale; the layer has norms, RoPE and no bias"
            )
        widths = {"qk_nope_head_dim": c["nope_dim"], "qk_rope_head_dim": c["rope_dim"], "v_head_dim": c["value_dim"]}
        ranks = {"kv_lora_rank": c["latent_dim"], "q_lora_rank": c.get("query_latent_dim")}
        config = deepseek.DeepseekV3Config(**settings(c, kind), **widths, **ranks, rope_interleave=False)
        return with_rope(deepseek.DeepseekV3Attention, deepseek.DeepseekV3RotaryEmbedding, config)

    def queries(compressed):
        names = ("w_uq", "w_qr") if compressed else ("w_q", "w_qr")
        return lambda p: by_head(HEADS, *(p[n] for n in names)) if ("w_uq" in p) == compressed else None

    names = {
        "q_a_proj.weight": "w_dq.T",
        "q_a_layernorm.weight": "norm_q",
        "q_b_proj.weight": queries(True),
        "q_proj.weight": queries(False),
        "kv_a_proj_with_mqa.weight": ("w_dkv.T", "w_kr.T"),
        "kv_a_layernorm.weight": "norm_c",
        "kv_b_proj.weight": lambda p: by_head(HEADS, p["w_uk"], p["w_uv"]),
        "o_proj.weight": "w_o.T",
    }
    return torch_module(make, names, "mla", mask="seen", positions="positions", call=call)


llama_eager = grouped("gqa", llama.LlamaAttention, llama.LlamaRotaryEmbedding, llama.LlamaConfig, "eager")
llama_sdpa = grouped("gqa", llama.LlamaAttention, llama.LlamaRotaryEmbedding, llama.LlamaConfig, "sdpa")
qwen2_sdpa = grouped("gqa", qwen2.Qwen2Attention, qwen2.Qwen2RotaryEmbedding, qwen2.Qwen2Config, "sdpa", True)
deepseek_v3_eager = latent("eager")
deepseek_v3_sdpa = latent("sdpa")
