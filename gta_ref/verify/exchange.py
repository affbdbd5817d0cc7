"""Convert arrays to and from other libraries, and lay them out in memory as other programs do.

Arrays travel by DLPack where a library has it; bfloat16, which NumPy's DLPack lacks, travels as its bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from gta_ref.errors import check_choice, kind_of
from gta_ref.files import one_line
from gta_ref.ops import as_dtype

LIBRARIES = ("numpy", "torch", "jax", "cupy", "mlx")
LAYOUTS = ("contiguous", "token-major", "packed", "broadcast")
_CLASSES = {"torch": ("torch", "Tensor"), "cupy": ("cupy", "ndarray"), "mlx": ("mlx.core", "array")}
_HEADS = ("q", "k", "v", "d_z")  # the arrays (B, heads, N, width), to which a layout applies


def from_numpy(arrays: Mapping[str, np.ndarray], library: str) -> dict[str, Any]:
    """Convert NumPy arrays to equal arrays of another library.

    Raises
    ------
    ValueError
        If the library is unknown or not installed, or does not support a dtype (float64 in JAX without
        jax_enable_x64, and in MLX on a GPU).
    """
    check_choice("arrays", library, LIBRARIES)
    if library == "numpy":
        return dict(arrays)
    try:
        return {name: _INTO[library](x) for name, x in arrays.items()}
    except ModuleNotFoundError as error:
        raise ValueError(f"arrays={library!r} needs the package {error.name}") from None


def to_numpy(x: Any, name: str = "array") -> np.ndarray:
    """Convert an array of any of the libraries, on any device, or a Python number to a NumPy array.

    Raises
    ------
    ValueError
        If `x` is not an array, if its numbers cannot be had (a traced or a deleted array of JAX), or if NumPy has no
        such arrays (FP8 and sparse tensors of PyTorch).
    """
    if isinstance(x, np.ndarray | np.generic):
        found = np.asarray(x)
    elif isinstance(x, Real) and not isinstance(x, bool):
        found = np.asarray(float(x))
    else:
        convert = next((out for library, out in _OUT_OF.items() if _is_of(library, x)), None)
        if convert is None and not hasattr(x, "__array__") and not hasattr(x, "__dlpack__"):
            raise ValueError(f"{name} is {kind_of(x)}; expected an array")
        try:
            found = (convert or _by_protocol)(x)
        except Exception as error:  # each library has its own; none may look like an error of the implementation
            text = one_line(str(error).partition("\n")[0])
            raise ValueError(f"{name} is {_described(x)}, which NumPy cannot read ({text})") from None
    if found.dtype.kind not in "biufcV":
        raise ValueError(f"{name} has dtype {found.dtype}; expected numbers")
    return found


def lay_out(arrays: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Give the arrays of an attention case another layout in memory, with equal shapes and values.

    Parameters
    ----------
    arrays : mapping of str to array
        Of NumPy or PyTorch; arrays of other libraries, which have no strides, stay as they are.
    layout : {"contiguous", "token-major", "packed", "broadcast"}
        How q, k, v and d_z (B, heads, N, width) lie. "token-major": views of (B, N, heads, width). "packed": q, k and v
        are views of one array (B, N, features), as one projection writes it; if there are fewer queries than keys, k
        and v alone are packed. "broadcast": of an array whose heads are all equal, one head is held, and expanded with
        stride 0.

    Returns
    -------
    dict of str to array
        New arrays where the layout applies; the others are those given.
    """
    check_choice("layout", layout, LAYOUTS)
    found = dict(arrays)
    if layout == "contiguous":
        return found
    for name in _HEADS:
        x = found.get(name)
        if isinstance(x, np.ndarray) or _is_of("torch", x):
            found[name] = _broadcast(x) if layout == "broadcast" else _token_major(x)
    if layout == "packed":
        together = [name for name in ("q", "k", "v") if found[name].shape[2] == found["k"].shape[2]]
        found |= _packed({name: found[name] for name in together})
    return found


def _token_major(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np.array(x.swapaxes(1, 2), order="C").swapaxes(1, 2)
    import torch

    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _packed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Views, each (B, heads, N, width), of one array (B, N, sum of heads · width)."""
    flat = {}
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray) and not _is_of("torch", x):
            return dict(arrays)
        batch, heads, n, width = x.shape
        flat[name] = x.swapaxes(1, 2).reshape(batch, n, heads * width)
    if isinstance(next(iter(flat.values())), np.ndarray):
        whole: Any = np.concatenate(list(flat.values()), axis=2)
    else:
        import torch

        whole = torch.cat(list(flat.values()), dim=2)
    found, start = {}, 0
    for name, x in arrays.items():
        batch, heads, n, width = x.shape
        part = whole[:, :, start : start + heads * width]
        found[name] = part.reshape(batch, n, heads, width).swapaxes(1, 2)  # splits the last axis: still a view
        start += heads * width
    return found


def _broadcast(x: Any) -> Any:
    equal = to_numpy(x)
    if not equal.shape[1] or equal[:, :1].repeat(equal.shape[1], axis=1).tobytes() != equal.tobytes():
        return x
    if not isinstance(x, np.ndarray):
        return x[:, :1].clone().expand(x.shape)
    one = np.array(x[:, :1], order="C")
    strides = (one.strides[0], 0, *one.strides[2:])
    return np.lib.stride_tricks.as_strided(one, x.shape, strides)  # can be written, so that a write is noticed


def _is_of(library: str, x: Any) -> bool:
    """Whether `x` is an array of a library; a class derived from its class counts."""
    module, kind = _CLASSES[library]
    return module in sys.modules and isinstance(x, getattr(sys.modules[module], kind))


def _described(x: Any) -> str:
    if _is_of("torch", x):
        return f"a tensor of {x.dtype}, {x.layout}, on {x.device}"
    return kind_of(x)


def _torch(x: np.ndarray) -> Any:
    import torch

    if not x.flags.writeable or any(stride < 0 for stride in x.strides):  # PyTorch knows neither
        x = np.array(x)
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


def _mlx(x: np.ndarray) -> Any:
    import mlx.core as mx

    if x.dtype.name == "bfloat16":
        return mx.array(np.array(x).view(np.uint16)).view(mx.bfloat16)
    if x.dtype == np.float64 and mx.default_device() != mx.Device(mx.cpu):
        raise ValueError("MLX supports float64 only on its CPU device")
    # without a dtype, float64 would become float32
    dtype = getattr(mx, "bool_" if x.dtype == np.bool_ else x.dtype.name)
    return mx.array(np.array(x, order="C"), dtype=dtype)


def _out_of_torch(x: Any) -> np.ndarray:
    import torch

    x = x.detach().cpu().resolve_conj().resolve_neg()
    if x.dtype == torch.bfloat16:
        return np.asarray(x.contiguous().view(torch.int16).numpy()).view(as_dtype("bfloat16"))
    return np.asarray(x.numpy())


def _out_of_cupy(x: Any) -> np.ndarray:
    return np.asarray(x.get())


def _out_of_mlx(x: Any) -> np.ndarray:
    import mlx.core as mx

    if x.dtype == mx.bfloat16:
        return np.array(x.view(mx.uint16)).view(as_dtype("bfloat16"))
    return np.array(x)


def _by_protocol(x: Any) -> np.ndarray:
    """Arrays of JAX and others."""
    return np.asarray(x) if hasattr(x, "__array__") else np.from_dlpack(x)


_INTO: dict[str, Callable[[np.ndarray], Any]] = {"torch": _torch, "jax": _jax, "cupy": _cupy, "mlx": _mlx}
_OUT_OF = {"torch": _out_of_torch, "cupy": _out_of_cupy, "mlx": _out_of_mlx}
