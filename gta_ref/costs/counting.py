"""Count the multiply–accumulates that the real code executes.

``with counted_products() as tally: forward(params, watched(x), …)`` records every matrix product with at least one
watched operand. The formulas of :mod:`gta_ref.costs.flops` are tested against these counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gta_ref.ops.products import products_by, watched

__all__ = ["Tally", "counted_products", "watched"]


@dataclass
class Tally:
    """Matrix products executed so far.

    Attributes
    ----------
    products : list of (shape of a, shape of b)
    macs : int
        Multiply–accumulates of these products.
    """

    products: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    macs: int = 0


@contextmanager
def counted_products() -> Iterator[Tally]:
    """Count the matrix products of watched arrays in this block."""
    tally = Tally()

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result: np.ndarray = a @ b
        tally.products.append((a.shape, b.shape))
        tally.macs += result.size * a.shape[-1]
        return result

    with products_by(product):
        yield tally
