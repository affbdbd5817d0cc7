"""Which library an array belongs to, and in which precision an operation computes.

float64 and float32 compute in themselves. float16 and bfloat16 are storage: an operation widens them
to float32, computes and accumulates there, and rounds its result once.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]  # or a cupy.ndarray, which the operations treat alike

STORAGE_DTYPES = ("float16", "bfloat16")
FLOAT_DTYPES = ("float64", "float32", *STORAGE_DTYPES)


def array_module(x: Array) -> ModuleType:
    """Return the module (numpy or cupy) whose functions take `x`."""
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    return np


def as_dtype(name: Any) -> np.dtype:
    """Return the floating-point dtype called `name`; bfloat16 is ml_dtypes' type.

    Raises
    ------
    ValueError
        Where it is none of float64, float32, float16 and bfloat16.
    """
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
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
    """Return `x` in the precision that it is computed in; float32 and float64 come back as they are."""
    # by size, as a dtype's name is put together anew at every look: a fifth of a small layer's time
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def narrow(x: Array, dtype: Any) -> Array:
    """Round `x` once to its storage dtype; no copy where it is in that dtype already."""
    return x.astype(dtype, copy=False)


def add(*terms: Array) -> Array:
    """Sum in the precision of computation, rounded once."""
    if len(terms) == 1:
        return terms[0]
    total = widen(terms[0]) + widen(terms[1])
    for term in terms[2:]:
        total += widen(term)
    return narrow(total, terms[0].dtype)
