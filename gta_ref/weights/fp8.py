"""DeepSeek-V3's weights in FP8: 8-bit floats, and one factor for every block of a matrix.

A quantised matrix W (out, in) is stored as two tensors: ``name.weight``, float8_e4m3fn of the same shape, and
``name.weight_scale_inv``, float32 (⌈out/128⌉, ⌈in/128⌉). The factor of a block multiplies all its elements:

    W[i, j] = weight[i, j] · weight_scale_inv[i // 128, j // 128]

An element of float8_e4m3fn has 4 significant bits, so the product with a float32 factor is rounded once, to float32.
Tensors that are not quantised, such as the norms' gains in bfloat16, are widened to float32 along with it: parameters
have one dtype. In DeepSeek's own code the matrices' inputs are quantised too, while it runs; that is not done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gta_ref.errors import as_int, check_shape, shown
from gta_ref.ops import Array
from gta_ref.weights.config_fields import ConfigDict, Fields

DTYPE = "float8_e4m3fn"  # of the package ml_dtypes; "fn": finite, without infinities
SUFFIX = "_scale_inv"
_BLOCK = (128, 128)


def dequantised(what: str, state: Mapping[str, Array], config_dict: ConfigDict) -> Mapping[str, Array]:
    """Return the state with its FP8 matrices multiplied out, all in float32; without FP8 in it, the state as it is.

    Parameters
    ----------
    what : str
        Name of the state in error messages.
    state : mapping of str to array
    config_dict : mapping
        Its `quantization_config` gives the size of the blocks, weight_block_size; default (128, 128).

    Raises
    ------
    ValueError
        If a quantised matrix has no factors or the reverse, if the factors do not fit the matrix, if the blocks' size
        is missing or wrong, or if `quantization_config` describes another quantisation.
    """
    block = _block(config_dict)
    quantised = [name for name, x in state.items() if _is_fp8(x)]
    factors = [name for name in state if name.endswith(SUFFIX)]
    lonely = [f"missing {name}{SUFFIX}" for name in quantised if name + SUFFIX not in state]
    lonely += [
        f"{name} has no {DTYPE} tensor {name.removesuffix(SUFFIX)}"
        for name in factors
        if name.removesuffix(SUFFIX) not in quantised
    ]
    if lonely:
        raise ValueError(f"{what}: {'; '.join(lonely)}")
    if not quantised:
        return state
    if block is None:
        raise ValueError(f"{what}: {quantised[0]} is {DTYPE}; expected a quantization_config in the configuration")
    found: dict[str, Array] = {}
    for name, x in state.items():
        if name in quantised:
            found[name] = _multiplied(what, name, x, state[name + SUFFIX], block)
        elif name not in factors:
            if str(x.dtype) not in ("bfloat16", "float16", "float32"):
                raise ValueError(f"{what}: {name} has dtype {x.dtype}; expected bfloat16, float16 or float32")
            found[name] = x.astype(np.float32)
    return found


def _multiplied(what: str, name: str, x: Array, factors: Array, block: tuple[int, int]) -> Array:
    if x.ndim != 2:
        raise ValueError(f"{what}: {name} has shape {x.shape}; expected a matrix, because its dtype is {DTYPE}")
    check_shape(
        f"{what}: {name}{SUFFIX}", factors, tuple(-(-n // size) for n, size in zip(x.shape, block, strict=True))
    )
    if factors.dtype != np.float32 or not np.isfinite(factors).all():
        came = f"dtype {factors.dtype}" if factors.dtype != np.float32 else "values that are not finite"
        raise ValueError(f"{what}: {name}{SUFFIX} has {came}; expected finite float32 numbers")
    of_row, of_column = (np.arange(n) // size for n, size in zip(x.shape, block, strict=True))
    product: Array = x.astype(np.float32) * factors[of_row[:, None], of_column]
    if not np.isfinite(product).all():
        raise ValueError(f"{what}: {name} has values that are not finite")
    return product


def _block(config_dict: ConfigDict) -> tuple[int, int] | None:
    """Rows and columns of a block; None if the configuration says nothing about quantisation."""
    given = config_dict.get("quantization_config")
    if given is None:
        return None
    fields = Fields("quantization_config", given)
    fields.only("quant_method", "fp8")
    fields.only("fmt", "e4m3")
    fields.ignore("activation_scheme", "modules_to_not_convert")  # how other code runs, and what is not quantised
    size = fields.get("weight_block_size", list(_BLOCK))
    fields.finish()
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"weight_block_size={shown(size)} must be a list of two whole numbers")
    rows, columns = (as_int(f"weight_block_size[{i}]", n, at_least=1) for i, n in enumerate(size))
    return rows, columns


def _is_fp8(x: Any) -> bool:
    return str(getattr(x, "dtype", "")) == DTYPE
