"""Which keys each query may see: one rule for causal attention, decoding, chunked prefill, padding, ragged lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.errors import as_int, as_size, check_bool, refuse, shown

FARTHEST = 2**62  # of a bound from 0: the sum or difference of two bounds, and of a row's number, fits in 64 bits
MOST = 2**31 - 1  # queries or keys of one call


@dataclass(frozen=True, eq=False)
class Mask:
    """Query row i of sequence b may see key j iff ``k_start <= j < k_stop`` and, if causal, ``j <= q_start + i``.

    Parameters
    ----------
    causal : bool
        Whether a query sees no later keys. Default True.
    q_start : int or int array (B,), optional
        The key slot of query row 0. Default N_k − N_q: the last query sees the last key. It may be
        negative; a row with q_start + i < 0 then sees nothing if the mask is causal.
    k_start : int or int array (B,), optional
        First slot that holds a real token; left padding comes before it. Default 0.
    k_stop : int or int array (B,), optional
        One past the last slot that holds a real token; right padding comes after it. Default N_k. If
        ``k_stop <= k_start``, the sequence is empty and none of its rows sees anything.

    Notes
    -----
    A row that sees nothing yields z = 0, lse = −inf and zero gradients, in every engine. Slots of k and
    v outside [k_start, k_stop) may hold anything, NaN included, and never reach a result.
    """

    causal: bool = True
    q_start: Any = None
    k_start: Any = None
    k_stop: Any = None

    def __post_init__(self) -> None:
        check_bool("causal", self.causal)
        for name in ("q_start", "k_start", "k_stop"):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, as_bound(name, value))

    def resolve(self, batch: int, n_queries: int, n_keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The bounds (q_start, k_start, k_stop), each int64 (B,), with defaults filled in.

        Raises
        ------
        ValueError
            If a bound has another batch size, k_start is negative, or k_stop is outside 0…N_k.
        """
        batch, n_queries, n_keys = _sizes(batch, n_queries, n_keys)
        q_start = self._bound("q_start", n_keys - n_queries, batch)
        k_start = self._bound("k_start", 0, batch)
        k_stop = self._bound("k_stop", n_keys, batch)
        # k_start may be larger than N_k if a cache contains only padding so far
        for name, bound, wrong, expected in (
            ("k_start", k_start, k_start < 0, "a whole number of at least 0"),
            ("k_stop", k_stop, (k_stop < 0) | (k_stop > n_keys), f"between 0 and N_k={n_keys}"),
        ):
            if wrong.any():
                b = int(wrong.argmax())
                raise ValueError(f"{name}={int(bound[b])} of sequence {b} must be {expected}")
        return q_start, k_start, k_stop

    def _bound(self, name: str, default: int, batch: int) -> np.ndarray:
        value: Any = getattr(self, name)
        value = default if value is None else value
        if np.ndim(value) == 1 and len(value) != batch:
            raise ValueError(f"{name} has shape {value.shape}; expected ({batch},), one per sequence")
        return np.broadcast_to(np.asarray(value, np.int64), (batch,))

    def positions(self, batch: int, n_queries: int, n_keys: int) -> np.ndarray:
        """Each query's position for RoPE, max(0, q_start + i − k_start): tokens are counted, left padding is not.

        Returns
        -------
        positions : (1 or B, N_q), int64
            One row if the positions of all sequences are equal.
        """
        q_start, k_start, _ = self.resolve(batch, n_queries, n_keys)
        first = q_start - k_start  # (B,)
        if (first == first[:1]).all():
            first = first[:1]
        found: np.ndarray = np.maximum(0, first[:, None] + np.arange(n_queries))
        return found

    def to_dense(self, n_queries: int, n_keys: int) -> np.ndarray:
        """The mask as a boolean array, True where a query may see a key.

        Returns
        -------
        visible : (N_q, N_k), or (B, N_q, N_k) if a bound is an array
        """
        _, n_queries, n_keys = _sizes(1, n_queries, n_keys)
        batches = [len(v) for v in (self.q_start, self.k_start, self.k_stop) if np.ndim(v) == 1]
        q_start, k_start, k_stop = self.resolve(batches[0] if batches else 1, n_queries, n_keys)
        visible = dense(self.causal, q_start, k_start, k_stop, n_queries, n_keys)
        return visible if batches else visible[0]


def as_mask(mask: Mask | None) -> Mask:
    """The mask itself, or the default ``Mask()`` for None. Anything else raises a ValueError."""
    if mask is None:
        return _DEFAULT
    if not isinstance(mask, Mask):
        refuse("mask", mask, "a gta_ref.core.Mask")
    return mask


def as_bound(name: str, value: Any, expected: str = "an int or integers (B,)") -> Any:
    """One whole number as an int, or integers (B,) as a new array of int64; none is farther than 2^62 from 0."""
    try:
        ndim = np.ndim(value)
        found = np.asarray(value) if ndim else value
    except (TypeError, ValueError):  # rows of different lengths, or an array of another library
        raise ValueError(f"{name} is {shown(value)}; expected {expected}") from None
    if ndim == 0:
        number = as_int(name, value[()] if isinstance(value, np.ndarray) else value, at_most=FARTHEST)
        if number < -FARTHEST:
            raise ValueError(f"{name}={shown(number)} must be a whole number of at least {-FARTHEST}")
        return number
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {found.dtype} and shape {found.shape}; expected {expected}")
    numbers = found.tolist()  # of a few sequences; two reductions by NumPy would take longer
    if numbers and not -FARTHEST <= min(numbers) <= max(numbers) <= FARTHEST:
        wrong = next(number for number in numbers if abs(number) > FARTHEST)
        raise ValueError(f"{name}={wrong} must be a whole number between {-FARTHEST} and {FARTHEST}")
    return found.astype(np.int64)  # a copy, because the caller may change the original


def _sizes(batch: Any, n_queries: Any, n_keys: Any) -> tuple[int, int, int]:
    """The sizes of a call, checked."""
    if type(batch) is type(n_queries) is type(n_keys) is int and 0 <= batch <= MOST:  # noqa: SIM102
        if 0 <= n_queries <= MOST and 0 <= n_keys <= MOST:
            return batch, n_queries, n_keys
    named = ("batch", batch), ("n_queries", n_queries), ("n_keys", n_keys)
    first, second, third = (as_size(name, value, at_least=0, at_most=MOST) for name, value in named)
    return first, second, third


def dense(
    causal: bool, q_start: np.ndarray, k_start: np.ndarray, k_stop: np.ndarray, n_queries: int, n_keys: int
) -> np.ndarray:
    """The rule, applied to resolved bounds: True where a query sees a key, (B, N_q, N_k)."""
    key = np.arange(n_keys)
    visible = (k_start[:, None, None] <= key) & (key < k_stop[:, None, None])  # (B, 1, N_k)
    if causal:
        row = q_start[:, None] + np.arange(n_queries)  # (B, N_q)
        visible = visible & (key <= row[:, :, None])
    return np.broadcast_to(visible, (len(q_start), n_queries, n_keys))


_DEFAULT = Mask()
