"""All costs of a few models in one nested dict, which ``gta-ref costs`` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gta_ref.costs import llm_viewer
from gta_ref.costs.flops import training_macs
from gta_ref.costs.hardware import Hardware, check_hardware
from gta_ref.costs.memory import cache_bytes, training_activations
from gta_ref.costs.model import Model, check_model
from gta_ref.costs.roofline import CONVENTIONS, STAGES, estimate
from gta_ref.errors import check_choice, refuse


def summary(
    models: Sequence[Model],
    batch: int,
    length: int,
    hardware: Hardware,
    *,
    fused: bool = False,
    convention: str = "moved",
    dtype: Any = "bfloat16",
) -> dict[str, Any]:
    """Compute the costs of each model, and their ratios to those of the last model.

    Returns
    -------
    found : dict
        ``setting``: the arguments. ``models``: name → costs. ``ratios``: name → cache, attention, prefill and decode
        seconds, each divided by that of the last model. The elements of the cache and the MACs of the attention are
        those of one layer; if a model's layers differ in size, they are the means over its layers.
    """
    if not isinstance(models, (list, tuple)) or not models:
        refuse("models", models, "a list of at least one gta_ref.costs.model.Model")
    for i, model in enumerate(models):
        check_model(f"models[{i}]", model)
    check_hardware(hardware)
    check_choice("convention", convention, CONVENTIONS)
    if convention == "llm-viewer" and hardware.name == "h100":
        hardware = llm_viewer.H100
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        # without a fused kernel nothing is computed twice, but the maps are computed whole
        training = training_macs(model, batch, length, fused=fused, causal_saving=fused)
        found[model.name] = {
            "mechanism": model.groups[0].structure.mechanism,
            "parameters": model.parameters,
            "cache_elements": _mean_over_layers(model, "cache_elements"),
            "cache_bytes_per_token": cache_bytes(model, 1, 1, dtype),
            "cache_bytes": cache_bytes(model, batch, length, dtype),
            "attention_macs": _mean_over_layers(model, "attention_macs"),
            "training_activations": training_activations(model, batch, length, fused=fused),
            "training_operations": 2 * training["total"],
            **{
                stage: vars(estimate(model, stage, batch, length, hardware, fused=fused, convention=convention))
                for stage in STAGES
            },
        }
    baseline = found[models[-1].name]
    ratios = {
        name: {
            "cache": one["cache_elements"] / baseline["cache_elements"],
            "attention": one["attention_macs"] / baseline["attention_macs"],
            **{stage: one[stage]["seconds"] / baseline[stage]["seconds"] for stage in STAGES},
        }
        for name, one in found.items()
    }
    setting = {
        "batch": batch,
        "length": length,
        "hardware": vars(hardware),
        "fused": fused,
        "convention": convention,
        "dtype": str(dtype),
    }
    return {"setting": setting, "models": found, "ratios": ratios}


def _mean_over_layers(model: Model, name: str) -> float:
    """Mean of a number of the structures; the number itself, a whole one, if all layers have the same."""
    numbers = {getattr(group.structure, name) for group in model.groups}
    if len(numbers) == 1:
        return int(numbers.pop())
    return float(sum(group.n_layers * getattr(group.structure, name) for group in model.groups) / model.n_layers)
