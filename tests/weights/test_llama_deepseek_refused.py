"""What Llama's and DeepSeek's attention cannot be loaded from or saved to: the field, its value, what was expected."""

import pytest

from gta_ref.mechanisms import gha, gqa, load, mla
from gta_ref.weights import llama_deepseek
from tests.weights.fields import DEEPSEEK

LLAMA = dict(hidden_size=24, num_attention_heads=6, num_key_value_heads=2, rope_theta=500.0)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(hidden_size=None), "hidden_size=None must be a whole number of at least 1"),
        (dict(num_attention_heads=5), "num_attention_heads=5 must divide hidden_size=24"),
        (dict(num_key_value_heads=4), "num_key_value_heads=4 must divide num_attention_heads=6"),
        (dict(num_key_value_heads=0), "num_key_value_heads=0 must be a whole number of at least 1"),
        (dict(head_dim=4.0), r"head_dim=4\.0 must be a whole number"),
        (dict(head_dim=3), "head_dim=3 must be even"),
        (dict(rope_theta=0), "rope_theta=0 must be a finite number above 0"),
        (dict(attention_bias="no"), "attention_bias='no' must be True or False"),
        (dict(sliding_window=4096), "sliding_window=4096 must be null"),
    ],
)
def test_refused_llama_configs(change, message):
    with pytest.raises(ValueError, match=message):
        llama_deepseek.load_llama_attention({}, {**LLAMA, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(kv_lora_rank=0), "kv_lora_rank=0 must be a whole number of at least 1"),
        (dict(q_lora_rank=0), "q_lora_rank=0 must be a whole number of at least 1"),
        (dict(qk_rope_head_dim=-1), "qk_rope_head_dim=-1 must be a whole number of at least 0"),
        (dict(qk_rope_head_dim=3), "qk_rope_head_dim=3 must be even"),
        (dict(v_head_dim="5"), "v_head_dim='5' must be a whole number"),
        (dict(rope_interleave="yes"), "rope_interleave='yes' must be True or False"),
        (dict(attention_bias=True), "attention_bias=True must be False"),
        (dict(qk_rope_head_dim=0, rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling=.* must be null"),
        (dict(num_key_value_heads=2), "num_key_value_heads=2 must be 4: it has no other meaning"),
        (dict(head_dim=6), "head_dim=6 must be 4: it has no other meaning"),
        (dict(qk_head_dim=12), "qk_head_dim=12 must be 10: it has no other meaning"),
        (dict(model_type="deepseek_v32"), "model_type='deepseek_v32' must be one of 'deepseek_v2', 'deepseek_v3'"),
    ],
)
def test_refused_deepseek_configs(change, message):
    with pytest.raises(ValueError, match=message):
        llama_deepseek.load_deepseek_attention({}, {**DEEPSEEK, **change})


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="Llama config: missing hidden_size; expected hidden_size, num_attention"):
        llama_deepseek.load_llama_attention({}, {"num_attention_heads": 4})
    short = {name: value for name, value in DEEPSEEK.items() if name not in ("q_lora_rank", "v_head_dim")}
    with pytest.raises(ValueError, match="DeepSeek config: missing v_head_dim, q_lora_rank; expected hidden_size"):
        llama_deepseek.load_deepseek_attention({}, short)


def test_what_cannot_be_saved(rng):
    for config, message in (
        (gqa.Config(24, 6, 4, 2, gate="sigmoid"), "gate='sigmoid' must be 'none' in Llama's form"),
        (gqa.Config(24, 6, 4, 2, rope_pairing="interleaved"), "rope_pairing='interleaved' must be 'half' in Llama's"),
        (gha.Config(24, 6, 4, 3, 1, 2), r"config is a gta_ref\.mechanisms\.gha\.Config; expected GQA's or MHA's"),
    ):
        with pytest.raises(ValueError, match=message):
            llama_deepseek.save_llama_attention(load(config.mechanism).init(config, rng), config)
    sizes = dict(hidden_size=24, n_heads=4, latent_dim=10, nope_dim=6, rope_dim=4, value_dim=5)
    for change, message in (
        (dict(gate="silu"), "gate='silu' must be 'none' in DeepSeek's form"),
        (dict(bias=True), "bias=True must be False in DeepSeek's form"),
        (dict(latent_norm=False), "latent_norm=False must be True in DeepSeek's form"),
        (dict(norm_eps=1e-5), "norm_eps=1e-05 must be 1e-06 in DeepSeek's form"),
        (dict(rope_pairing="none"), "rope_pairing='none' must be 'half' or 'interleaved' in DeepSeek's form"),
    ):
        config = mla.Config(**sizes, **change)
        with pytest.raises(ValueError, match=message):
            llama_deepseek.save_deepseek_attention(mla.init(config, rng), config)
    config = mla.Config(**sizes)
    params = mla.init(config, rng)
    with pytest.raises(ValueError, match="params: missing w_uk"):
        llama_deepseek.save_deepseek_attention({n: p for n, p in params.items() if n != "w_uk"}, config)
    with pytest.raises(ValueError, match=r"params\['w_uk'\] has shape \(9, 24\); expected \(10, 24\)"):
        llama_deepseek.save_deepseek_attention({**params, "w_uk": params["w_uk"][:-1]}, config)
    with pytest.raises(ValueError, match=r"config is a gta_ref\.mechanisms\.gqa\.Config; expected MLA's"):
        llama_deepseek.save_deepseek_attention(params, gqa.Config(24, 6, 4, 2))
