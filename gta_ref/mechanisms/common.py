"""What all mechanisms do alike: checks of arguments, masks and positions, RoPE's angles, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.errors import check_params, check_shape
from gta_ref.ops.arrays import Array, array_module, check_float, widen
from gta_ref.ops.rope import rope_angles


def check_input(params: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], x: Array, hidden_size: int) -> None:
    """Check x (B, N, H) and every parameter's name, shape and dtype."""
    check_float("x", x)
    check_shape("x", x, ("B", "N", hidden_size))
    check_params(params, shapes, x.dtype)


def default_positions(mask: Mask, batch: int, n_queries: int, n_keys: int) -> np.ndarray:
    """max(0, q_start + i − k_start): the number of real tokens before this one; (1 or B, N)."""
    q_start, k_start, _ = mask.resolve(batch, n_queries, n_keys)
    first = q_start - k_start  # (B,)
    if (first == first[:1]).all():
        first = first[:1]  # all sequences alike: one row of angles is enough
    return np.maximum(0, first[:, None] + np.arange(n_queries))


def decode_mask(cache: KVCache, x: Array) -> tuple[Mask, np.ndarray]:
    """Mask and positions (1 or B, N_new) of tokens x (B, N_new, H) that come behind what the cache holds."""
    if x.shape[0] != cache.batch:
        raise ValueError(f"x has shape {x.shape}; expected ({cache.batch}, N, {x.shape[2]}), the cache's batch")
    mask = Mask(q_start=cache.length, k_start=cache.k_start)
    return mask, default_positions(mask, cache.batch, x.shape[1], cache.length + x.shape[1])


def rope_tables(x: Array, positions: Any, theta: float, pairing: str) -> tuple[Array, Array]:
    """cos and sin for the heads of x (B, n, N, d): each ([1 or B,] 1, N, d/2), in x's precision of computation.

    `positions` is (N,) or (1 or B, N), integers. With pairing "none" nothing turns, and both are empty.
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


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: np.dtype) -> np.ndarray:
    """Normal random numbers, drawn in float64 so that a seed means the same weights in every dtype."""
    return (rng.standard_normal(shape) * std).astype(dtype)
