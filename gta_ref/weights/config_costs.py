"""The costs of a model without its weights: from its config.json, or from the Config of a language model."""

from __future__ import annotations

from typing import Any

from gta_ref.costs.experts import Experts
from gta_ref.costs.model import Model
from gta_ref.errors import check_choice
from gta_ref.lm.config import Config
from gta_ref.ops.arrays import check_config
from gta_ref.weights import config_json
from gta_ref.weights.config_fields import ConfigDict, Fields

# fields that change results but no cost
_FREE = (
    *("hidden_act", "rms_norm_eps", "embedding_multiplier", "residual_multiplier", "logits_scaling"),
    *("n_group", "topk_group", "topk_method", "scoring_func", "norm_topk_prob", "routed_scaling_factor"),
    "quantization_config",  # the costs are those of the dtype that is asked for
)


def is_config_json(content: Any) -> bool:
    """Whether the content of a JSON file is a model's config.json, and not sizes by the names of this library."""
    return isinstance(content, dict) and "mechanism" not in content and "num_attention_heads" in content


def costs_model(name: str, config_dict: ConfigDict) -> Model:
    """Build the model of a config.json.

    Parameters
    ----------
    name : str
    config_dict : mapping
        The model_type has to be there: it says which sizes mean what.

    Raises
    ------
    ValueError
        If a field is missing, or may change the costs and is not known here; the message names the field.
    """
    fields = Fields(name, config_dict)
    fields.need("model_type", "vocab_size", "num_hidden_layers", "intermediate_size", "tie_word_embeddings")
    families = [family for family, about in config_json.FAMILIES.items() if about.swiglu]
    check_choice("model_type", fields.get("model_type"), (*families, *config_json.DEEPSEEK_TYPES))
    latent = fields.get("model_type") in config_json.DEEPSEEK_TYPES
    attention: Any = config_json.latent(fields) if latent else config_json.grouped_query(fields)
    experts = _experts(fields) if latent else None
    fields.only("mlp_bias", False)
    sizes = {
        "n_layers": fields.size("num_hidden_layers"),
        "intermediate_size": fields.size("intermediate_size"),
        "vocab_size": fields.size("vocab_size"),
        "tied": fields.truth("tie_word_embeddings", False),
    }
    fields.ignore(*_FREE)
    fields.finish()
    return Model.of(name, "mla" if latent else "gqa", attention, experts=experts, **sizes)


def model_costs(name: str, config: Config) -> Model:
    """Build the model whose costs are those of a language model with this Config, whose layers may differ in size."""
    check_config(config, Config)
    sizes = {size: getattr(config, size) for size in ("n_layers", "intermediate_size", "vocab_size", "tied")}
    return Model.of(name, config.mechanism, config.attention, **sizes)


def _experts(fields: Fields) -> Experts | None:
    """DeepSeek's experts; None if all layers have plain MLPs."""
    if fields.get("n_routed_experts") is None:
        fields.ignore("moe_intermediate_size", "n_shared_experts", "num_experts_per_tok", "first_k_dense_replace")
        fields.only("moe_layer_freq", 1)
        return None
    fields.only("moe_layer_freq", 1)  # 2: every second layer has experts
    return Experts(
        min(fields.size("first_k_dense_replace", 0, at_least=0), fields.size("num_hidden_layers")),
        fields.size("n_routed_experts"),
        fields.size("num_experts_per_tok"),
        fields.size("n_shared_experts", 0, at_least=0),
        fields.size("moe_intermediate_size"),
    )
