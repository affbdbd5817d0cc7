"""Rotary position embedding (RoPE): pairs of features are rotated by an angle that grows with the position.

Pair t of a head of width d is rotated by position · θ_base^(−2t/d). Two conventions say which features
make a pair, and a model trained with one gives wrong results with the other:

- "half" (rotate_half: Llama, GTA): feature t goes with feature t + d/2;
- "interleaved" (the original paper's): feature 2t goes with feature 2t + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.ops.arrays import Array, array_module, narrow, widen

PAIRINGS = ("half", "interleaved", "none")


def rope_angles(positions: Array, d: int, theta: float = 10000.0, dtype: Any = np.float64) -> tuple[Array, Array]:
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

    Returns
    -------
    cos, sin : (..., N, d/2)

    Raises
    ------
    ValueError
        If d is odd.
    """
    if d % 2:
        raise ValueError(f"head_dim={d} must be even: RoPE turns pairs of features")
    xp = array_module(positions)
    frequencies = theta ** (-xp.arange(0, d, 2, dtype=np.float64) / d)  # (d/2,)
    angles = positions[..., None].astype(np.float64) * frequencies  # (..., N, d/2)
    return xp.cos(angles).astype(dtype), xp.sin(angles).astype(dtype)


def rope_tables(x: Array, positions: Any, theta: float, pairing: str) -> tuple[Array, Array]:
    """cos and sin for the heads of x, in the precision in which x is computed.

    Parameters
    ----------
    x : (B, n, N, d)
    positions : (N,) or (1 or B, N), integers
    theta : float
        θ_base.
    pairing : {"half", "interleaved", "none"}
        With "none" nothing is rotated, and both results are empty.

    Returns
    -------
    cos, sin : ([1 or B,] 1, N, d/2)

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
    return rope_angles(positions[..., None, :], 0 if pairing == "none" else d, theta, widen(x[:0]).dtype)


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
    cos, sin : broadcast to (..., N, d/2); from :func:`rope_angles`
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
    """A rotation's transpose is the rotation by the opposite angle: dx = R(−angle) dy."""
    cos, sin, pairing = saved
    return _rotate(dy, cos, -sin, pairing)


def _rotate(x: Array, cos: Array, sin: Array, pairing: str) -> Array:
    if pairing == "none":
        return x
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
