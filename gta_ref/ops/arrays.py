"""Which library an array belongs to, and in which precision an operation computes.

Operations on float64 and float32 compute in the same precision. float16 and bfloat16 are storage formats: an operation
widens them to float32, computes and accumulates in float32, and rounds its result once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from gta_ref.errors import check_bool, check_params, check_params_mapping, check_shape, check_type, refuse, shown

Array = np.ndarray[Any, Any]  # or a cupy.ndarray, which the operations treat in the same way
Params = Mapping[str, Array]  # by the parameter's name
Saved = TypeVar("Saved")  # what a forward leaves for its backward
Trace = dict[str, Array]  # stages by name, as a forward or backward leaves them

STORAGE_DTYPES = ("float16", "bfloat16")
FLOAT_DTYPES = ("float64", "float32", *STORAGE_DTYPES)
_DTYPE_TEXTS = {*FLOAT_DTYPES, "float", "double", "single", "half", "d", "f", "e", "f8", "f4", "f2"}


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
    dtype: np.dtype[Any] | None = None
    if isinstance(name, str) and name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    # only these kinds: np.dtype would read None as float64, and of any object it would read an attribute dtype
    if isinstance(name, (type, np.dtype)) or (isinstance(name, str) and name.lstrip("<>=|") in _DTYPE_TEXTS):
        try:
            dtype = np.dtype(name)
        except TypeError:
            dtype = None
    if dtype is None or dtype.name not in FLOAT_DTYPES:
        raise ValueError(f"dtype={shown(name)} must be one of {', '.join(FLOAT_DTYPES)}")
    return dtype


def check_float(name: str, x: Array) -> None:
    """Raise ValueError unless `x` is an array of one of the floating-point dtypes."""
    dtype = getattr(x, "dtype", None)
    if not isinstance(dtype, np.dtype) or not isinstance(getattr(x, "shape", None), tuple):
        refuse(name, x, "an array of floats")
    if dtype.name not in FLOAT_DTYPES:
        raise ValueError(f"{name} has dtype {dtype}; expected one of {', '.join(FLOAT_DTYPES)}")


@lru_cache(64)
def is_float(dtype: Any) -> bool:
    """Whether this is one of FLOAT_DTYPES, in any byte order."""
    return isinstance(dtype, np.dtype) and dtype.name in FLOAT_DTYPES  # NumPy builds the name anew at every access


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
    try:
        if (
            isinstance(x, np.ndarray)
            and x.ndim == 3
            and x.shape[2] == hidden_size
            and x.dtype.name in FLOAT_DTYPES
            and params.keys() == shapes.keys()
            and [(p.shape, p.dtype) for p in params.values()] == [(shapes[name], x.dtype) for name in params]
        ):
            return  # the checks below, one after the other, would take longer than a small layer's computation
    except AttributeError:  # params is no mapping, or not one of arrays; the checks below say which
        pass
    check_float("x", x)
    check_shape("x", x, ("B", "N", hidden_size))
    check_params(params, shapes, x.dtype)


def check_options(config: Any, kind: type, trace: Any, need_saved: Any = True) -> None:
    """Raise ValueError unless config is a `kind`, trace None or a dict, and need_saved True or False."""
    if isinstance(config, kind) and (trace is None or isinstance(trace, dict)) and isinstance(need_saved, bool):
        return
    check_config(config, kind)
    check_trace(trace)
    check_bool("need_saved", need_saved)


def check_config(config: Any, kind: type) -> None:
    """Raise ValueError unless config is a `kind`."""
    if not isinstance(config, kind):
        refuse("config", config, f"a {kind.__module__}.{kind.__name__}")


def check_trace(trace: Any) -> None:
    """Raise ValueError unless trace is None or a dict."""
    if trace is not None and not isinstance(trace, dict):
        refuse("trace", trace, "a dict or None")


def as_saved(saved: Any, kind: type[Saved], trace: Any = None, function: str = "forward") -> Saved:
    """Return `saved`; raise ValueError unless it is a `kind`, which `function` returned, and trace None or a dict."""
    if not isinstance(saved, kind):
        refuse("saved", saved, f"what {function} returns with need_saved=True")
    check_trace(trace)
    return saved


def check_cotangent(name: str, dy: Array, shape: tuple[int, ...], dtype: Any, of: str) -> None:
    """Raise ValueError unless `dy` has the shape and the dtype of the result `of`, whose cotangent it is."""
    if isinstance(dy, np.ndarray) and dy.shape == shape and dy.dtype == dtype:
        return
    check_float(name, dy)
    if dy.shape != shape:
        raise ValueError(f"{name} has shape {dy.shape}; expected {shape}, as {of}")
    if dy.dtype.name != dtype.name:  # the byte order may differ
        raise ValueError(f"{name} has dtype {dy.dtype}; expected {dtype}, as {of}")


def check_params_alone(params: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless `params` has these names and shapes, all in the dtype of the first, one of floats."""
    check_params_mapping(params)
    first = next((name for name in shapes if name in params), None)
    if first is not None:
        check_float(f"params[{first!r}]", params[first])
    check_params(params, shapes, None if first is None else params[first].dtype)


def check_rng(rng: Any) -> None:
    """Raise ValueError unless rng is a Generator of NumPy."""
    check_type("rng", rng, np.random.Generator, "a numpy.random.Generator")


def check_positions(positions: Any, x: Array) -> None:
    """Raise ValueError unless positions are None, or integers (N,), (1, N) or (B, N) for x (B, N, H)."""
    if positions is None:
        return
    batch, length, _ = x.shape
    expected = f"expected integers ({length},) or ({batch}, {length})"
    try:
        found = positions if hasattr(positions, "dtype") else np.asarray(positions)
    except ValueError:  # rows of different lengths
        raise ValueError(f"positions={shown(positions)} has rows of different lengths; {expected}") from None
    dtype, shape = found.dtype, getattr(found, "shape", None)
    if getattr(dtype, "kind", None) not in ("i", "u") or shape not in ((length,), (1, length), (batch, length)):
        raise ValueError(f"positions has dtype {dtype} and shape {shape}; {expected}")


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: np.dtype) -> np.ndarray:
    """Draw normal random numbers in float64, so that one seed gives the same weights in every dtype."""
    return (rng.standard_normal(shape) * std).astype(dtype)
