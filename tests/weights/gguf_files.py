"""Small GGUF files, written by the package gguf."""

import numpy as np

from gta_ref.lm import model
from gta_ref.mechanisms import gqa

TINY = model.Config(
    vocab_size=258,
    n_layers=2,
    intermediate_size=96,
    attention=gqa.Config(64, 4, 16, 2, rope_theta=500.0, rope_pairing="interleaved"),
    mechanism="gqa",
    norm_eps=float(np.float32(1e-5)),
)


def write(path, config=TINY, seed=0, quantisation="F32", fields=(), tensors=None):
    """Write a GGUF file by the package gguf: 256 bytes, one merge, one special token; return its random weights."""
    import gguf

    params = model.init(config, np.random.default_rng(seed))
    writer = gguf.GGUFWriter(path, "llama")
    writer.data_alignment = dict(fields).get("general.alignment") or 32
    attention = config.attention
    values = {
        "llama.embedding_length": attention.hidden_size,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": attention.n_heads,
        "llama.attention.head_count_kv": attention.n_k,
        "llama.rope.dimension_count": attention.head_dim,
        "llama.context_length": 64,
        "llama.rope.freq_base": attention.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.tokens": [chr(b if 33 <= b < 127 or 161 <= b != 173 else 256 + _rank(b)) for b in range(256)]
        + ["th", "<|endoftext|>"],
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": ["t h"],
        **dict(fields),
    }
    for name, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[bool] = writer.add_bool
        if value is not None:
            add[type(value)](name, value)
    theirs = {"embed": "token_embd", "norm": "output_norm", "head": "output"} | {
        f"layers.{i}.{ours}": f"blk.{i}.{name}"
        for i in range(config.n_layers)
        for ours, name in [
            ("norm_1", "attn_norm"),
            ("attention.w_q", "attn_q"),
            ("attention.w_k", "attn_k"),
            ("attention.w_v", "attn_v"),
            ("attention.w_o", "attn_output"),
            ("norm_2", "ffn_norm"),
            ("mlp.w_gate", "ffn_gate"),
            ("mlp.w_up", "ffn_up"),
            ("mlp.w_down", "ffn_down"),
        ]
    }
    state = {f"{theirs[name]}.weight": p if name == "embed" else p.T for name, p in params.items()}
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, x in (state | (tensors or {})).items():
        x = np.ascontiguousarray(x)
        if x.ndim == 2 and quantisation != "F32":
            writer.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return params


def _rank(byte):
    """Number of bytes below this one that GPT-2 spells by a character from U+0100 on."""
    return sum(not (33 <= b < 127 or 161 <= b != 173) for b in range(byte))
