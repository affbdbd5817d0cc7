"""Convert arrays to and from other libraries by DLPack; bfloat16, which NumPy's DLPack lacks, travels as its bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.ops import as_dtype

LIBRARIES = ("numpy", "torch", "jax", "cupy")


def from_numpy(arrays: Mapping[str, np.ndarray], library: str) -> dict[str, Any]:
    """Convert NumPy arrays to equal arrays of another library.

    Raises
    ------
    ValueError
        If the library is unknown or not installed, or does not support a dtype (float64 in JAX without
        jax_enable_x64).
    """
    check_choice("arrays", library, LIBRARIES)
    if library == "numpy":
        return dict(arrays)
    try:
        return {name: _INTO[library](x) for name, x in arrays.items()}
    except ModuleNotFoundError as error:
        raise ValueError(f"arrays={library!r} needs the package {error.name}") from None


def to_numpy(x: Any, name: str = "array") -> np.ndarray:
    """Convert an array of any of the libraries to a NumPy array.

    Raises
    ------
    ValueError
        If `x` is not an array, or NumPy has no such arrays (FP8 and sparse tensors of PyTorch).
    """
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    family = type(x).__module__.partition(".")[0]
    if family == "torch":
        import torch

        x = x.detach().cpu().resolve_conj()
        if x.dtype == torch.bfloat16:
            return np.asarray(x.contiguous().view(torch.int16).numpy()).view(as_dtype("bfloat16"))
        try:
            return np.asarray(x.numpy())
        except (TypeError, RuntimeError):
            raise ValueError(f"{name} is a tensor of {x.dtype}, {x.layout}, which NumPy lacks") from None
    if family == "cupy":
        return np.asarray(x.get())
    if hasattr(x, "__array__"):
        return np.asarray(x)  # arrays of JAX and others
    raise ValueError(f"{name} is a {type(x).__name__}; expected an array")


def _torch(x: np.ndarray) -> Any:
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_dlpack(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(x)


def _jax(x: np.ndarray) -> Any:
    import jax.numpy as jnp

    if x.dtype == np.float64 and jnp.zeros(0, jnp.float64).dtype != np.float64:
        raise ValueError("JAX supports float64 only with jax_enable_x64")
    return jnp.array(x)


def _cupy(x: np.ndarray) -> Any:
    import cupy

    return cupy.asarray(x)


_INTO = {"torch": _torch, "jax": _jax, "cupy": _cupy}
