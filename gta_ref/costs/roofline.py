"""Time by a roofline: an operator takes as long as its operations or its bytes need, whichever is longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gta_ref.costs import llm_viewer, operators
from gta_ref.costs.hardware import Hardware, check_hardware
from gta_ref.costs.memory import cache_bytes, weight_bytes
from gta_ref.costs.model import Model, check_model
from gta_ref.costs.operators import Operator
from gta_ref.errors import as_size, check_bool, check_choice, check_type

CONVENTIONS = ("moved", "llm-viewer")
STAGES = ("prefill", "decode")


@dataclass(frozen=True)
class Estimate:
    """Time, operations and bytes of a pass.

    Attributes
    ----------
    seconds : float
        Σ over operators of max(operations / peak, bytes / bandwidth).
    operations, bytes : int
        Sums over all operators.
    parts : dict of str to float
        Operator's name → seconds.
    """

    seconds: float
    operations: int
    bytes: int
    parts: dict[str, float]


def estimate(
    model: Model,
    stage: str,
    batch: int,
    length: int,
    hardware: Hardware,
    *,
    fused: bool = False,
    convention: str = "moved",
) -> Estimate:
    """Time of a prefill of `length` tokens, or of one decoding step after `length` tokens, at 2 bytes per element.

    Parameters
    ----------
    model : Model
    stage : {"prefill", "decode"}
    batch, length : int
        At least 1.
    hardware : Hardware
        With the convention "llm-viewer", the preset "h100" is replaced by that tool's own figures.
    fused : bool
        Whether the maps stay inside the attention kernel. Default False.
    convention : {"moved", "llm-viewer"}
        How operations and bytes are counted: as in :mod:`gta_ref.costs.operators`, the default, or as in
        :mod:`gta_ref.costs.llm_viewer`.

    Returns
    -------
    Estimate
    """
    check_choice("stage", stage, STAGES)
    check_choice("convention", convention, CONVENTIONS)
    check_model("model", model)
    check_hardware(hardware)
    check_bool("fused", fused)
    batch, length = as_size("batch", batch), as_size("length", length)
    if convention == "llm-viewer":
        hardware = llm_viewer.H100 if hardware.name == "h100" else hardware
        found = llm_viewer.operators(model, batch, length, prefill=stage == "prefill", fused=fused)
    elif stage == "prefill":
        found = operators.operators(model, batch, length, 0, fused=fused)
    else:
        found = operators.operators(model, batch, 1, length, fused=fused)
    return time(found, hardware)


def time(found: Sequence[Operator], hardware: Hardware) -> Estimate:
    """Add up the operators' times."""
    check_hardware(hardware)
    check_type("found", found, (list, tuple), "a list of gta_ref.costs.operators.Operator")
    for i, operator in enumerate(found):
        check_type(f"found[{i}]", operator, Operator, "a gta_ref.costs.operators.Operator")
    parts: dict[str, float] = {}
    for operator in found:
        seconds = max(operator.operations / hardware.peak, operator.bytes / hardware.bandwidth)
        parts[operator.name] = parts.get(operator.name, 0.0) + seconds
    return Estimate(sum(parts.values()), sum(o.operations for o in found), sum(o.bytes for o in found), parts)


def check_fits(model: Model, batch: int, length: int, hardware: Hardware) -> None:
    """Raise ValueError unless weights and cache, at 2 bytes per element, fit into the hardware's memory."""
    check_model("model", model)
    check_hardware(hardware)
    batch, length = as_size("batch", batch), as_size("length", length)
    if hardware.memory is None:
        return
    need = weight_bytes(model) + cache_bytes(model, batch, length)
    if need > hardware.memory:
        raise ValueError(
            f"length={length} at batch={batch}: weights and cache of {model.name} need {need:,} bytes; "
            f"{hardware.name} holds {hardware.memory:,}"
        )
