"""Which library an array belongs to, and in which precision an operation computes.

Operations on float64 and float32 compute in the same precision. float16 and bfloat16 are storage formats: an operation
widens them to float32, computes and accumulates in float32, and rounds its result once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from gta_ref.errors import check_params, check_shape

Array = np.ndarray[Any, Any]  # or a cupy.ndarray, which the operations treat in the same way
Params = Mapping[str, Array]  # by the parameter's name
Trace = dict[str, Array]  # stages by name, as a forward or backward leaves them

STORAGE_DTYPES = ("float16", "bfloat16")
FLOAT_DTYPES = ("float64", "float32", *STORAGE_DTYPES)


def array_module(x: Array) -> ModuleType:
    """Return the module (numpy or cupy) whose functions accept `x`."""
    module: ModuleType = np
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        module = cupy
    return module


def as_dtype(name: Any) -> np.dtype[Any]:
    """Return the floating-point dtype called `name`; bfloat16 is ml_dtypes' type.

    Raises
    ------
    ValueError
        If `name` is none of float64, float32, float16 and bfloat16.
    """
    dtype: np.dtype[Any] | None
    if name == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
        return dtype
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in FLOAT_DTYPES:
        raise ValueError(f"dtype={name!r} must be one of {', '.join(FLOAT_DTYPES)}")
    return dtype


def check_float(name: str, x: Array) -> None:
    """Raise ValueError unless `x` is an array of one of the floating-point dtypes."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise ValueError(f"{name} is a {type(x).__name__}; expected an array of floats")
    if dtype.name not in FLOAT_DTYPES:
        raise ValueError(f"{name} has dtype {dtype}; expected one of {', '.join(FLOAT_DTYPES)}")


def widen(x: Array) -> Array:
    """Return `x` in the precision of computation; float32 and float64 arrays are returned unchanged."""
    # the size is compared because NumPy builds a dtype's name anew at every access: a fifth of a small layer's time
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def narrow(x: Array, dtype: Any) -> Array:
    """Round `x` once to its storage dtype; there is no copy if it has that dtype already."""
    return x.astype(dtype, copy=False)


def add(*terms: Array) -> Array:
    """Sum the terms in the precision of computation and round once, to the dtype of the first."""
    if len(terms) == 1:
        return terms[0]
    total = widen(terms[0]) + widen(terms[1])
    for term in terms[2:]:
        total += widen(term)
    return narrow(total, terms[0].dtype)


def check_layer(params: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], x: Array, hidden_size: int) -> None:
    """Raise ValueError unless x is (B, N, hidden_size) and `params` has these names and shapes, all in x's dtype."""
    if (
        isinstance(x, np.ndarray)
        and x.ndim == 3
        and x.shape[2] == hidden_size
        and x.dtype.name in FLOAT_DTYPES
        and params.keys() == shapes.keys()
        and [(p.shape, p.dtype) for p in params.values()] == [(shapes[name], x.dtype) for name in params]
    ):
        return  # the checks below, one after the other, would take longer than a small layer's computation
    check_float("x", x)
    check_shape("x", x, ("B", "N", hidden_size))
    check_params(params, shapes, x.dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: np.dtype) -> np.ndarray:
    """Draw normal random numbers in float64, so that one seed gives the same weights in every dtype."""
    return (rng.standard_normal(shape) * std).astype(dtype)
