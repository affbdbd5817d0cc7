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
        seconds, each divided by that of the last model.
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
            "mechanism": model.structure.mechanism,
            "parameters": model.parameters,
            "cache_elements": model.structure.cache_elements,
            "cache_bytes_per_token": cache_bytes(model, 1, 1, dtype),
            "cache_bytes": cache_bytes(model, batch, length, dtype),
            "attention_macs": model.structure.attention_macs,
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
