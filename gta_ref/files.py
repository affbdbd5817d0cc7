"""Files, whole or not at all: written under a temporary name and renamed, read completely or refused."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  makes the dtype bfloat16 known to NumPy, and so to safetensors
import numpy as np


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends, delete it when it raises.

    Whoever reads `path` sees the old file or the whole new one, never half.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are readable by their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as JSON, indented."""
    text = json.dumps(content, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file.

    Parameters
    ----------
    path : str or path
    tensors : mapping of str to array
        Any strides; bfloat16 is ml_dtypes' type.
    metadata : mapping of str to str, optional
    """
    from safetensors.numpy import save_file

    # the library writes the memory behind an array, which of a transposed view is another matrix
    packed = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(packed, temporary, dict(metadata or {}))


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and the metadata of a safetensors file.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError
    ValueError
        Where the file is truncated, corrupted or of another format; the message names the file.
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
