"""AdamW with a warm-up, a cosine schedule and clipped gradients.

    m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
    θ ← θ − η (m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + λ θ)

(Loshchilov and Hutter, arXiv 1711.05101, with η in front of the decay too, as in libraries.) All functions are
pure, so a step that is interrupted has changed nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gta_ref.ops import Array

BETA_1, BETA_2, EPSILON = 0.9, 0.95, 1e-8


class Moments(NamedTuple):
    """Running means of the gradient and of its square, under the parameters' names."""

    m: dict[str, Array]
    v: dict[str, Array]


def zeros(params: Mapping[str, Array]) -> Moments:
    """Moments before the first step."""
    return Moments(*({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2)))


def learning_rate(step: int, steps: int, peak: float, warmup: int, final_fraction: float) -> float:
    """η of step 1 … steps: linear up to `peak` at step `warmup`, then half a cosine down to `final_fraction` of it."""
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * done)) / 2)


def clip(grads: Mapping[str, Array], largest: float) -> tuple[dict[str, Array], float]:
    """Scale all gradients by one factor, so that their norm is at most `largest`.

    Returns
    -------
    grads : dict of str to array
    norm : float
        √Σ g² over all parameters, before clipping.
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
    if not norm > largest:
        return dict(grads), norm
    return {name: g * g.dtype.type(largest / norm) for name, g in grads.items()}, norm


def step(
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    moments: Moments,
    count: int,
    rate: float,
    weight_decay: float,
) -> tuple[dict[str, Array], Moments]:
    """One step of AdamW.

    Parameters
    ----------
    params, grads : dict of str to array
    moments : Moments
        From :func:`zeros` or from the previous step.
    count : int
        t, the number of this step, counted from 1.
    rate : float
        η.
    weight_decay : float
        λ, for matrices only; gains and biases do not decay.

    Returns
    -------
    params, moments : new arrays
    """
    m_scale, v_scale = 1 / (1 - BETA_1**count), 1 / (1 - BETA_2**count)
    new_params, new_m, new_v = {}, {}, {}
    for name, p in params.items():
        g = grads[name]
        m = BETA_1 * moments.m[name] + (1 - BETA_1) * g
        v = BETA_2 * moments.v[name] + (1 - BETA_2) * (g * g)
        change = (m_scale * m) / (np.sqrt(v_scale * v) + EPSILON)
        if p.ndim > 1:
            change += weight_decay * p
        new_params[name], new_m[name], new_v[name] = p - rate * change, m, v
    return new_params, Moments(new_m, new_v)
