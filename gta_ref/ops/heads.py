"""Heads: split a token's vector into heads and merge them again; let several maps share one head.

    split_heads    (B, N, n·d) → (B, n, N, d)      merge_heads  (B, n, N, d) → (B, N, n·d)
    repeat_heads   (B, n, N, d) → (B, n_q, N, d)   sum_heads    (B, n_q, N, d) → (B, n, N, d)

The two functions of a line are inverse or transpose to each other, so each is the other's backward.
"""

from __future__ import annotations

from gta_ref.ops.arrays import Array, array_module


def split_heads(x: Array, n: int) -> Array:
    """Split every token's vector into n heads: (B, N, n·d) → (B, n, N, d)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, n, width // n).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """Lay a token's heads side by side: (B, n, N, d) → (B, N, n·d)."""
    batch, n, length, d = x.shape
    return x.swapaxes(1, 2).reshape(batch, length, n * d)


def repeat_heads(x: Array, n_q: int) -> Array:
    """Repeat each head for the maps that share it, n_q/n times in a row: (B, n, N, d) → (B, n_q, N, d)."""
    repeated: Array = array_module(x).repeat(x, n_q // x.shape[1], axis=1)
    return repeated


def sum_heads(dx: Array, n: int) -> Array:
    """The transpose of :func:`repeat_heads`: (B, n_q, N, d) → (B, n, N, d), summed over the maps that share a head."""
    batch, n_q, length, d = dx.shape
    total: Array = dx.reshape(batch, n, n_q // n, length, d).sum(axis=2)
    return total
