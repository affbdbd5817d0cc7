"""Small configurations, and fields of real models that change what a model computes, each with a value that does."""

from typing import Any

LLAMA: dict[str, Any] = dict(hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=4, rope_theta=500.0)
AROUND: dict[str, Any] = dict(
    vocab_size=11, num_hidden_layers=2, intermediate_size=8, rms_norm_eps=1e-5, hidden_act="silu"
)
DEEPSEEK: dict[str, Any] = dict(
    hidden_size=24,
    num_attention_heads=4,
    q_lora_rank=9,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    rope_theta=500.0,
)
# fields of real models that change the attention, each with a value that does
ATTENTION = {
    "attention_multiplier": 0.0078125,  # Granite, here without its model_type
    "query_pre_attn_scalar": 256,  # Gemma 2
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "softcap": 20.0,
    "clip_qkv": 8.0,  # OLMo
    "qk_norm": True,
    "use_qk_norm": True,  # Cohere, Llama 4
    "qk_layernorm": True,  # StableLM, Phi
    "norm_topk": 1,
    "no_rope_layers": [1, 1, 1, 0],  # SmolLM3
    "no_rope_layer_interval": 4,
    "nope_layer_interval": 4,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "attention_chunk_size": 8192,  # Llama 4
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
    "rope_local_base_freq": 1e4,  # Gemma 3
    "rope_interleaved": True,
    "rotary_pct": 0.25,  # GPT-NeoX
    "rotary_dim": 64,  # GPT-J
    "rotary_emb_base": 10000,
    "rope_ratio": 500,  # ChatGLM
    "use_rope": False,
    "position_embedding_type": "absolute",
    "alibi": True,
    "use_alibi": True,
    "attn_config": {"clip_qkv": 8},
    "quantization_config": {"quant_method": "gptq"},
    "logit_scale": 0.0625,  # Cohere
    "parallel_attn": True,
    "multi_query": True,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
    "attention_sinks": True,
    "attn_output_gate": True,
    "use_bias": True,
    "qkv_bias": True,
    "use_qkv_bias": True,
    "attention_out_bias": True,
    "v_head_dim": 64,
    "value_head_dim": 64,
    "kv_lora_rank": 512,
    "num_kv_shared_layers": 10,
    "cross_attention_layers": [3, 8],
    "is_encoder_decoder": True,
    "add_cross_attention": True,
    "pruned_heads": {"0": [1]},
    "chunk_size_feed_forward": 16,
    "tie_encoder_decoder": True,
    "text_config": {"hidden_size": 24},
    "something_nobody_has_heard_of": 1,
    "partial_rotary_factor": 0.5,  # Llama's code does not read it
}
# fields of what is around the attention, refused for a whole model alone
MODEL = {
    "hidden_act": "gelu",
    "hidden_activation": "gelu_pytorch_tanh",
    "mlp_bias": True,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "n_routed_experts": 64,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 8,
    "num_local_experts": 8,
}
LATENT = {
    name: ATTENTION[name]
    for name in (
        *("attn_logit_softcapping", "clip_qkv", "qk_norm", "sliding_window", "layer_types", "no_rope_layers"),
        *("attention_multiplier", "rope_interleaved", "partial_rotary_factor", "logit_scale", "text_config"),
        *("use_rope", "something_nobody_has_heard_of", "is_encoder_decoder", "use_bias"),
    )
} | {"index_topk": 2048, "index_n_heads": 64, "o_lora_rank": 3, "attention_bias": True, "rope_head_dim": 3}
