"""Write the ids and this library's own activations, so that a program in any language can compare on its side."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.files import check_writable, write_tensors
from gta_ref.ops import Array, as_dtype
from gta_ref.ops.arrays import FLOAT_DTYPES
from gta_ref.verify.models.activations import read
from gta_ref.verify.models.block import EXACT, Computer, run
from gta_ref.verify.models.reference import Reference, load_reference
from gta_ref.verify.models.verify import find_ids


def export_activations(
    model: str | os.PathLike[str] | Reference,
    path: str | os.PathLike[str],
    *,
    ids: Any = None,
    prompt: str | None = None,
    dtype: str = "float32",
) -> list[str]:
    """Compute a model's stages in float64 and write them, rounded once, to a safetensors file.

    Parameters
    ----------
    model : str, path or Reference
    path : path
    ids : (N,) or (B, N) integers, or path, optional
        The tokens, or a .safetensors or .npz file that holds them as ids or input_ids.
    prompt : str, optional
        A text in place of ids.
    dtype : str
        Of the file's arrays. Default "float32".

    Returns
    -------
    names : list of str
        Those of the arrays: ``ids``, and the stages as far as they can be computed (a block with experts ends it).

    Raises
    ------
    ValueError
        If neither or both of ids and prompt are given, or the model cannot be loaded.
    OSError
        If the file cannot be written.
    """
    check_choice("dtype", dtype, FLOAT_DTYPES)
    check_writable(path)
    reference = model if isinstance(model, Reference) else load_reference(model)
    arrays = read(ids) if isinstance(ids, str | os.PathLike) else {}
    if arrays and prompt is not None:
        raise ValueError("ids and prompt were both given; expected one of them")
    tokens = find_ids(reference, arrays, None if arrays else ids, prompt)
    computer = Computer(reference, tokens, np.arange(tokens.shape[1])[None])
    found: dict[str, Array] = {"ids": tokens}
    x = computer.embedding(EXACT)
    found["embedding"] = x.astype(as_dtype(dtype))
    for i in range(reference.config.n_layers + 1):
        prefix = f"blocks.{i}." if i < reference.config.n_layers else ""
        stages = run(computer.part(i), x)
        found |= {prefix + name: value.astype(as_dtype(dtype)) for name, value in stages.items()}
        if prefix and "output" not in stages:
            break
        x = stages.get("output", x)
    write_tensors(path, found, {"gta_ref": "activations 1", "model": reference.name})
    return list(found)
