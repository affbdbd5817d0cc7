"""Rotary position embedding (RoPE): pairs of features are rotated by an angle that grows with the position.

Pair t of a head of width d is rotated by position · θ_base^(−2t/d). Two conventions say which features
make a pair, and a model trained with one gives wrong results with the other:

- "half" (rotate_half: Llama, GTA): feature t goes with feature t + d/2;
- "interleaved" (the original paper's): feature 2t goes with feature 2t + 1.

Two changes to it are common. Models for long contexts have other frequencies than θ_base^(−2t/d), made from them by
:mod:`gta_ref.ops.rope_scaling`. And RoPE may be partial: with r/2 frequencies, r < d, it turns the first r features of
a head, which then have the pairs of a head of width r, and leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gta_ref.errors import as_positive_float, check_choice, refuse, shown
from gta_ref.ops.arrays import Array, array_module, narrow, widen

PAIRINGS = ("half", "interleaved", "none")


def rope_angles(
    positions: Array,
    d: int,
    theta: float = 10000.0,
    dtype: Any = np.float64,
    frequencies: Sequence[float] | None = None,
    magnitude: float = 1.0,
) -> tuple[Array, Array]:
    """Cosine and sine of every pair's angle, computed in float64 and rounded once.

    Parameters
    ----------
    positions : (..., N), integers
    d : int
        Width of a head; even.
    theta : float
        θ_base. Default 10000.
    dtype : float32 or float64
        The dtype of cos and sin. Default float64.
    frequencies : sequence of r/2 floats, optional
        Angle per position of every pair, in place of θ_base^(−2t/d).
    magnitude : float
        Factor on cos and sin, as YaRN has it. Default 1.

    Returns
    -------
    cos, sin : (..., N, d/2), or (..., N, r/2) with `frequencies`

    Raises
    ------
    ValueError
        If d is odd and no frequencies are given.
    """
    xp = array_module(positions)
    if frequencies is not None:
        per_position = xp.asarray(frequencies, dtype=np.float64)  # (r/2,)
    elif d % 2:
        raise ValueError(f"head_dim={d} must be even: RoPE turns pairs of features")
    else:
        per_position = theta ** (-xp.arange(0, d, 2, dtype=np.float64) / d)  # (d/2,)
    angles = positions[..., None].astype(np.float64) * per_position  # (..., N, d/2)
    cos, sin = xp.cos(angles), xp.sin(angles)
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    return cos.astype(dtype), sin.astype(dtype)


def rope_tables(
    x: Array,
    positions: Any,
    theta: float,
    pairing: str,
    frequencies: Sequence[float] | None = None,
    magnitude: float = 1.0,
) -> tuple[Array, Array]:
    """cos and sin for the heads of x, in the precision in which x is computed.

    Parameters
    ----------
    x : (B, n, N, d)
    positions : (N,) or (1 or B, N), integers
    theta : float
        θ_base.
    pairing : {"half", "interleaved", "none"}
        With "none" nothing is rotated, and both results are empty.
    frequencies, magnitude : as in :func:`rope_angles`

    Returns
    -------
    cos, sin : ([1 or B,] 1, N, d/2 or r/2)

    Raises
    ------
    ValueError
        If the positions are not integers, or their shape is another.
    """
    xp = array_module(x)
    batch, _, length, d = x.shape
    positions = xp.asarray(positions)
    if positions.dtype.kind not in "iu" or positions.shape not in ((length,), (1, length), (batch, length)):
        raise ValueError(
            f"positions has dtype {positions.dtype} and shape {positions.shape}; "
            f"expected integers ({length},) or ({batch}, {length})"
        )
    width = 0 if pairing == "none" else d
    return rope_angles(positions[..., None, :], width, theta, widen(x[:0]).dtype, frequencies, magnitude)


def as_frequencies(name: str, value: Any, d: int, pairing: str) -> tuple[float, ...] | None:
    """Check the frequencies in a configuration, None or 1 to d/2 finite numbers above 0; return them as a tuple."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) and getattr(value, "ndim", None) != 1:
        refuse(name, value, "None or a list of floats")
    if pairing == "none":
        raise ValueError(f"{name}={shown(value)} must be None with rope_pairing='none'")
    found = tuple(as_positive_float(f"{name}[{i}]", f) for i, f in enumerate(value))
    if not 1 <= len(found) <= d // 2:
        raise ValueError(f"{name} has {len(found)} entries; expected 1 to {d // 2}, at most one per pair of features")
    return found


def _halves(x: Array, pairing: str) -> tuple[Array, Array]:
    """Return views of the first and the second member of every pair, each (..., d/2)."""
    if pairing == "half":
        d = x.shape[-1]
        return x[..., : d // 2], x[..., d // 2 :]
    return x[..., 0::2], x[..., 1::2]


def rope_forward(x: Array, cos: Array, sin: Array, pairing: str = "half") -> tuple[Array, Any]:
    """(a, b) → (a cos − b sin, b cos + a sin) for every pair (a, b).

    Parameters
    ----------
    x : (..., N, d)
    cos, sin : broadcast to (..., N, r/2); from :func:`rope_angles`
        Features r to d of a head stay as they are; without own frequencies r = d.
    pairing : {"half", "interleaved", "none"}
        "none" leaves x as it is.

    Returns
    -------
    y : (..., N, d)
    saved : for :func:`rope_backward`
    """
    if pairing not in PAIRINGS:
        check_choice("pairing", pairing, PAIRINGS)
    return _rotate(x, cos, sin, pairing), (cos, sin, pairing)


def rope_backward(dy: Array, saved: Any) -> Array:
    """A rotation's transpose is the rotation by the opposite angle: dx = R(−angle) dy; a factor in R is kept."""
    cos, sin, pairing = saved
    return _rotate(dy, cos, -sin, pairing)


def _rotate(x: Array, cos: Array, sin: Array, pairing: str) -> Array:
    if pairing == "none":
        return x
    turned = 2 * cos.shape[-1]
    if turned < x.shape[-1]:
        whole: Array = array_module(x).array(x)
        whole[..., :turned] = _rotate(x[..., :turned], cos, sin, pairing)
        return whole
    # y = swap(x) ⊙ [−sin sin] + x ⊙ [cos cos], where swap exchanges the members of every pair. These are operations on
    # whole rows; operations on the halves of narrow heads take up to 2.5 times as long.
    xp, wide = array_module(x), widen(x)
    (a, b), y = _halves(wide, pairing), xp.empty_like(wide)
    with_x, with_swapped = (xp.empty((*cos.shape[:-1], x.shape[-1]), dtype=cos.dtype) for _ in range(2))  # (..., N, d)
    for array, first, second in ((y, b, a), (with_swapped, -sin, sin), (with_x, cos, cos)):
        array_a, array_b = _halves(array, pairing)
        array_a[...], array_b[...] = first, second
    y *= with_swapped
    y += wide * with_x
    return narrow(y, x.dtype)
