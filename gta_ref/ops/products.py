"""Arrays whose matrix products are computed by a replaceable function: to count them, or to sum in another order.

``with products_by(f): forward(params, watched(x), …)`` calls ``f(a, b)`` for every ``a @ b`` with at least one
watched operand; the result is watched too. The code that computes does not change for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]

_product: ContextVar[Product] = ContextVar("product", default=np.matmul)


class WatchedArray(np.ndarray):
    """An ndarray whose matrix products go through the function that :func:`products_by` set."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute on plain arrays, matrix products by the chosen function, and return a watched array."""
        plain = [_plain(x) for x in inputs]
        if ufunc is np.matmul:
            result = _product.get()(*plain)
        else:
            if "out" in kwargs:
                kwargs["out"] = tuple(_plain(x) for x in kwargs["out"])
            result = getattr(ufunc, method)(*plain, **kwargs)
        return result.view(WatchedArray) if isinstance(result, np.ndarray) else result

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Return a watched array from functions that would return a plain one, such as np.where."""
        result = super().__array_function__(func, types, args, kwargs)
        return result.view(WatchedArray) if isinstance(result, np.ndarray) else result


def watched(x: np.ndarray) -> WatchedArray:
    """Return a view of `x` whose products are watched."""
    return x.view(WatchedArray)


@contextmanager
def products_by(product: Product) -> Iterator[None]:
    """Compute the products of watched arrays in this block by ``product(a, b)``, which receives plain arrays."""
    token = _product.set(product)
    try:
        yield
    finally:
        _product.reset(token)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, WatchedArray) else x
