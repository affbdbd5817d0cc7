"""Convert the tensors of a state dict to parameters and back: names, layouts, and an error that names every problem.

A table states, for each foreign name, its name in this library and how its memory is converted:

- "transpose": a linear layer that holds (out, in) and multiplies from the left;
- "same": a bias, a gain, an embedding;
- "reinterpret": the decoders of the authors' GTA, (e·d_l, n_q·d_l) read row by row as (n_q, d_l, e·d_l).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gta_ref.errors import check_shape
from gta_ref.ops import Array
from gta_ref.ops.arrays import FLOAT_DTYPES

Names = Mapping[str, tuple[str, str]]  # foreign name → (our name, how it is converted)
Shapes = Mapping[str, tuple[int, ...]]  # our name → shape


def from_state(what: str, state: Mapping[str, Array], names: Names, shapes: Shapes) -> dict[str, Array]:
    """Turn the tensors of `state` into parameters.

    Parameters
    ----------
    what : str
        Name of the state in error messages.
    state : mapping of str to array
        All of one dtype.
    names : mapping of str to (name, how)
        The table: foreign name → our name and how the memory is converted.
    shapes : mapping of str to tuple of int
        Our name → shape of the parameter; the result has the same order.

    Returns
    -------
    params : dict of str to array
        Copies, in the state's dtype.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or of another dtype; the message names every such tensor.
    """
    problems = [f"missing {name}" for name in names if name not in state]
    problems += [f"unknown {name}" for name in state if name not in names]
    dtypes = sorted({str(getattr(x, "dtype", type(x).__name__)) for x in state.values()})
    if len(dtypes) > 1:
        problems.append(f"dtypes {', '.join(dtypes)} are mixed, expected one")
    elif dtypes and dtypes[0] not in FLOAT_DTYPES:
        problems.append(f"dtype {dtypes[0]}; expected one of {', '.join(FLOAT_DTYPES)}")
    params = {}
    for foreign, (ours, how) in names.items():
        if foreign in state:
            try:
                params[ours] = _ours(foreign, state[foreign], how, shapes[ours])
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError(f"{what}: " + "; ".join(problems))
    return {name: params[name] for name in shapes}


def to_state(params: Mapping[str, Array], names: Names, shapes: Shapes) -> dict[str, Array]:
    """The inverse of :func:`from_state`, for parameters and for gradients; it returns copies."""
    state = {}
    for foreign, (ours, how) in names.items():
        x = params[ours]
        check_shape(f"params[{ours!r}]", x, shapes[ours])
        if how == "transpose":
            x = x.T
        elif how == "reinterpret":
            n_q, d_l, width = shapes[ours]
            x = x.reshape(width, n_q * d_l)
        state[foreign] = np.array(x, order="C")
    return state


def _ours(foreign: str, x: Array, how: str, shape: tuple[int, ...]) -> Array:
    if how == "transpose":
        check_shape(foreign, x, shape[::-1])
        return np.array(x.T, order="C")  # a copy even if x.T is in C order already
    if how == "reinterpret":
        n_q, d_l, width = shape
        check_shape(foreign, x, (width, n_q * d_l))
        return np.array(x, order="C").reshape(shape)  # row-major memory, whatever the strides of x
    check_shape(foreign, x, shape)
    return np.array(x)
