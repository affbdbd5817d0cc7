"""Two surveys: how much faster GTA is at which batch and length, and which choices of its sizes are efficient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gta_ref.costs.hardware import Hardware, check_hardware
from gta_ref.costs.memory import cache_bytes, weight_bytes
from gta_ref.costs.model import Model, check_model
from gta_ref.costs.roofline import STAGES, estimate
from gta_ref.errors import as_size, refuse
from gta_ref.mechanisms import gta

MOST_HEADS = 4096  # of a survey: every divisor is tried with every other
LEVELS = (1.0, 1.5, 2.0, 3.0)
BATCHES = tuple(2**i for i in range(9))  # 1 … 256
LENGTHS = tuple(round(256 * 2 ** (i / 4)) for i in range(37))  # 256 … 131072, four per doubling


def speed_ups(
    model: Model,
    baseline: Model,
    hardware: Hardware,
    *,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    convention: str = "moved",
) -> dict[str, Any]:
    """Time of the baseline divided by time of the model, for prefill and decode, fused and unfused.

    Returns
    -------
    found : dict
        ``batches`` and ``lengths``: the axes. ``ratio``: "prefill fused" … → array (batches, lengths), NaN where the
        weights and cache of one of the two models do not fit into the hardware's memory. ``reached``: the same names →
        level → for each batch, the shortest length from which on the ratio stays at or above the level, or None.
    """
    check_model("model", model)
    check_model("baseline", baseline)
    check_hardware(hardware)
    batches, lengths = _whole_numbers("batches", batches), _whole_numbers("lengths", lengths)
    ratio = {}
    for stage, fused in itertools.product(STAGES, (False, True)):
        grid = np.full((len(batches), len(lengths)), np.nan)
        for (i, batch), (j, length) in itertools.product(enumerate(batches), enumerate(lengths)):
            if all(_fits(m, batch, length, hardware) for m in (model, baseline)):
                slow, fast = (
                    estimate(m, stage, batch, length, hardware, fused=fused, convention=convention).seconds
                    for m in (baseline, model)
                )
                grid[i, j] = slow / fast
        ratio[f"{stage} {'fused' if fused else 'unfused'}"] = grid
    reached = {
        name: {f"{level:g}": [_from_where(row, lengths, level) for row in grid] for level in LEVELS}
        for name, grid in ratio.items()
    }
    return {"batches": list(batches), "lengths": list(lengths), "ratio": ratio, "reached": reached}


def _fits(model: Model, batch: int, length: int, hardware: Hardware) -> bool:
    return hardware.memory is None or weight_bytes(model) + cache_bytes(model, batch, length) <= hardware.memory


def _from_where(row: np.ndarray, lengths: Sequence[int], level: float) -> int | None:
    known = [j for j, value in enumerate(row) if np.isfinite(value)]
    below = [j for j in known if row[j] < level]
    after = [j for j in known if not below or j > below[-1]]
    return lengths[after[0]] if after else None


@dataclass(frozen=True)
class Choice:
    """One choice of GTA's sizes and what it costs.

    Attributes
    ----------
    n_q, n_k, n_c, latent_dim : int
    cache : int
        Cached elements per token and layer.
    attention : int
        Multiply–accumulates per query and key.
    parameters : int
        Parameters of one attention layer.
    efficient : bool
        Whether the layer has at least the required parameters, and no other layer that has them is at least as good in
        both cache and attention and better in one of them.
    """

    n_q: int
    n_k: int
    n_c: int
    latent_dim: int
    cache: int
    attention: int
    parameters: int
    efficient: bool = False


def choices(
    hidden_size: int,
    n_heads: int,
    head_dim: int,
    parameters: int = 0,
    latent_dims: Sequence[int] = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512),
) -> list[Choice]:
    """Every GTA layer with n_q dividing n_heads, n_k and n_c dividing n_q, and one of the latent widths.

    Parameters
    ----------
    hidden_size, n_heads, head_dim : int
    parameters : int
        Least number of parameters with which a layer can count as efficient. Default 0. By cost alone the smallest
        sizes would win. How well a choice learns only training can show; models are usually compared at equal
        parameters.
    latent_dims : sequence of int
        The latent widths d_l to try.

    Returns
    -------
    list of Choice
    """
    hidden_size, head_dim = as_size("hidden_size", hidden_size), as_size("head_dim", head_dim)
    n_heads = as_size("n_heads", n_heads, at_most=MOST_HEADS)
    parameters = as_size("parameters", parameters, at_least=0)
    latent_dims = _whole_numbers("latent_dims", latent_dims)
    found = []
    for n_q in _divisors(n_heads):
        for n_k, n_c, latent_dim in itertools.product(_divisors(n_q), _divisors(n_q), latent_dims):
            s = gta.structure(gta.Config(hidden_size, n_heads, head_dim, n_q, n_k, n_c, latent_dim))
            found.append(Choice(n_q, n_k, n_c, latent_dim, s.cache_elements, s.attention_macs, s.parameters))
    # as objects, because sizes as large as 2^63 have products that do not fit in an int64
    enough = [(c.cache, c.attention) for c in found if c.parameters >= parameters]
    kind = object if any(max(pair) > 2**62 for pair in enough) else np.int64
    rivals = np.array(enough, kind).reshape(-1, 2)

    def beaten(c: Choice) -> bool:
        own = np.array((c.cache, c.attention), kind)
        return bool(((rivals <= own).all(axis=1) & (rivals < own).any(axis=1)).any())

    return [replace(c, efficient=c.parameters >= parameters and not beaten(c)) for c in found]


def _whole_numbers(name: str, values: Any) -> list[int]:
    """The values as ints, if they are whole numbers of at least 1 in a list, a tuple or the like."""
    one_row = isinstance(values, (Sequence, np.ndarray)) and getattr(values, "ndim", 1) == 1
    if not one_row or isinstance(values, (str, bytes)):
        refuse(name, values, "a sequence of whole numbers")
    return [as_size(f"{name}[{i}]", value) for i, value in enumerate(values)]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
