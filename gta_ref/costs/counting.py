"""Count the multiply–accumulates that the real code executes: run it on arrays that keep a tally.

``with counted_products() as tally: forward(params, counted(x), …)``: every matrix product with at least one
counted operand adds its multiply–accumulates, and its result is counted again. This is how the formulas of
:mod:`gta_ref.costs.flops` are held against what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Tally:
    """Matrix products executed so far.

    Attributes
    ----------
    products : list of (shape of a, shape of b)
    macs : int
        Their multiply–accumulates.
    """

    products: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    macs: int = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


class CountedArray(np.ndarray):
    """An ndarray whose matrix products are counted."""

    __array_priority__ = 1.0  # concatenating it with a plain array gives a counted one

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute on plain arrays, count a matmul, and hand on the mark."""
        plain = [_plain(x) for x in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(_plain(x) for x in kwargs["out"])
        result = getattr(ufunc, method)(*plain, **kwargs)
        tally = _tally.get()
        if ufunc is np.matmul and tally is not None:
            tally.products.append((plain[0].shape, plain[1].shape))
            tally.macs += result.size * plain[0].shape[-1]
        return result.view(CountedArray) if isinstance(result, np.ndarray) else result


def counted(x: np.ndarray) -> CountedArray:
    """A view of `x` whose products are counted."""
    return x.view(CountedArray)


@contextmanager
def counted_products() -> Iterator[Tally]:
    """Count the products of counted arrays in this block."""
    tally = Tally()
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, CountedArray) else x
