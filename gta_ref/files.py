"""Reading and writing whole files: a new file gets its name when it is complete, and incomplete files are refused."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers the dtype bfloat16 with NumPy, and so with safetensors
import numpy as np


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends, delete it if the block raises.

    A program that reads `path` sees the old file or the complete new one, never a part of it.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as JSON, indented."""
    text = json.dumps(content, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file.

    Parameters
    ----------
    path : str or path
    tensors : mapping of str to array
        The arrays may have any strides. For bfloat16 the dtype is that of ml_dtypes.
    metadata : mapping of str to str, optional
    """
    from safetensors.numpy import save_file

    # safetensors writes an array's memory as it is, which for a transposed view would be another matrix
    packed = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(packed, temporary, dict(metadata or {}))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and the metadata of a safetensors file.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupted or of another format; the message names the file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensors(), dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
