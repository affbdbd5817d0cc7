"""Read the activations that a program has dumped, and bring each array into the form of the stage that it is."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from gta_ref.errors import check_type, listed, printable
from gta_ref.files import one_line, read_tensors
from gta_ref.ops.arrays import FLOAT_DTYPES
from gta_ref.verify.exchange import to_numpy
from gta_ref.verify.models import names

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """One array of a dump.

    Attributes
    ----------
    stage : str
        Our name.
    name : str
        The dump's name.
    x : array
        As it came.
    target : names.Target
        All stages that the array holds.
    """

    stage: str
    name: str
    x: np.ndarray
    target: names.Target


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a .safetensors or .npz file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of another kind.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return read_tensors(path)[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        # opened here, because NumPy would leave a file that is no archive open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: not a complete .npz file of arrays ({one_line(error)})") from None
    # NumPy writes bfloat16 as two bytes without a name
    return {name: x.view(ml_dtypes.bfloat16) if x.dtype == np.dtype("V2") else x for name, x in found.items()}


def resolve(
    arrays: Mapping[str, object], known: Sequence[str], n_layers: int
) -> tuple[dict[str, Given], dict[str, str | None]]:
    """Find the stage of every array.

    Parameters
    ----------
    arrays : mapping of str to array
    known : sequence of str
        The model's stages.
    n_layers : int

    Returns
    -------
    given : dict of str to Given
        By our name.
    unknown : dict of str to str or None
        Names that are none of the known ones, and what they may have been meant to be.

    Raises
    ------
    ValueError
        If no name is known, two arrays for one stage differ, or an array holds no floats.
    """
    check_type("activations", arrays, Mapping, "a mapping of names to arrays")
    given: dict[str, Given] = {}
    unknown: dict[str, str | None] = {}
    stages = frozenset(known)
    for name, array in arrays.items():
        check_type("a name of the activations", name, str, "a str")
        if name in (*names.IDS, *names.POSITIONS, names.MASK):
            continue
        target = names.target(name, stages, n_layers)
        if target is None:
            unknown[name] = None if names.is_no_stage(name) else names.suggestion(name, known)
            continue
        x = to_numpy(array, name)
        if x.dtype.name not in FLOAT_DTYPES:
            raise ValueError(f"{printable(name)} has dtype {x.dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        for stage in target.stages:
            if stage in given and not (
                given[stage].target == target and np.array_equal(given[stage].x.ravel(), x.ravel(), equal_nan=True)
            ):
                raise ValueError(f"{printable(name)} and {given[stage].name} are both {stage}, and they differ")
            given[stage] = Given(stage, name, x, target)
    if not given:
        hint = next((f"; {n} may be {s}" for n, s in unknown.items() if s), "")
        raise ValueError(
            f"the activations have no name that is known: {printable(listed(list(unknown)) or 'none at all')}{hint}; "
            f"expected names such as embedding, blocks.0.attention.q, model.layers.0.mlp, hidden_states.0, logits"
        )
    return given, unknown


def arranged(given: Given, shapes: Mapping[str, Shape]) -> np.ndarray:
    """Bring an array into the shape of its stage.

    Parameters
    ----------
    given : Given
    shapes : mapping of str to tuple of int
        Shapes of all stages that the array holds: (B, N, width), (B, heads, N, width) or (B, heads, N).

    Returns
    -------
    x : of the stage's shape

    Raises
    ------
    ValueError
        If the array cannot be brought into it, or in two ways.
    """
    wanted = [shapes[stage] for stage in given.target.stages]
    at = given.target.stages.index(given.stage)
    if given.target.how == "whole":
        return _whole(given.name, given.x, wanted[0])
    batch, n = wanted[0][0], _tokens(wanted[0])
    if given.target.how == "heads":
        heads, widths = wanted[0][1], [shape[-1] for shape in wanted]
        x = _whole(given.name, given.x, (batch, heads, n, sum(widths)))
        start = sum(widths[:at])
        return x[..., start : start + widths[at]]
    widths = [prod(shape) // (batch * n) for shape in wanted]
    x = _whole(given.name, given.x, (batch, n, sum(widths)))
    start = sum(widths[:at])
    return _whole(given.name, x[..., start : start + widths[at]], wanted[at])


def _tokens(shape: Shape) -> int:
    return shape[1] if len(shape) == 3 else shape[2]


def _whole(name: str, x: np.ndarray, want: Shape) -> np.ndarray:
    """x as an array of the shape `want`, from any order of batch, tokens and heads that its shape tells apart."""
    if x.shape == want:
        return x
    if want[0] == 1 and x.shape == want[1:]:
        return x[None]
    found = [y for y in _readings(x, want) if y.shape == want]
    if not found:
        raise ValueError(f"{printable(name)} has shape {x.shape}; expected {want}")
    if any(not np.array_equal(found[0], y, equal_nan=True) for y in found[1:]):
        raise ValueError(
            f"{printable(name)} has shape {x.shape}, in which the axes of heads and tokens cannot be distinguished; "
            f"give {want}, or use another number of tokens"
        )
    return found[0]


def _readings(x: np.ndarray, want: Shape) -> Iterable[np.ndarray]:
    batch, n, width = want[0], _tokens(want), want[-1]
    if batch == 1 and x.ndim in (2, 3) and (x.shape[0] != 1 or x.ndim == 2):  # without the axis of the batch
        yield from _readings(x[None], want)
    if len(want) == 4:
        if x.shape == (batch, n, want[1], width):
            yield x.swapaxes(1, 2)
        if x.size == prod(want) and x.shape in ((batch, n, want[1] * width), (batch * n, want[1] * width)):
            yield x.reshape(batch, n, want[1], width).swapaxes(1, 2)
        return
    if x.shape == (batch * n, width):
        yield x.reshape(want)
    if x.shape == (n, batch, width):  # the tokens first
        yield x.swapaxes(0, 1)
    if x.ndim == 4 and x.size == prod(want):
        if x.shape[:2] == (batch, n):
            yield x.reshape(want)
        if (x.shape[0], x.shape[2]) == (batch, n):
            yield x.swapaxes(1, 2).reshape(want)
