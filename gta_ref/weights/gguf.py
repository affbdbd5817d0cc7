"""Read a GGUF file, the format of llama.cpp: metadata, and tensors that are mostly quantised.

    "GGUF", version (u32), number of tensors, number of fields (u64)
    fields:   name, kind (u32), value
    tensors:  name, number of sizes (u32), sizes (u64, innermost first), quantisation (u32), offset (u64)
    data, aligned

Numbers are little-endian. A string is its length (u64) and its bytes; a list is the kind of its values (u32), its
length (u64) and its values. The package gguf undoes the quantisations. Its own reader is not used: for the metadata of
SmolLM2 it needs 2.0 s and this one 0.15 s (gguf 0.19), and it does not check whether it reads beyond the end of the
file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.files import one_line

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
_VERSIONS = (2, 3)
_MOST_SIZES = 4  # largest number of dimensions of a tensor
_DEEPEST = 8  # lists inside one another; files of llama.cpp have none in a list


@dataclass(frozen=True)
class Tensor:
    """One tensor as it is stored in the file.

    Attributes
    ----------
    shape : tuple of int
        In NumPy's order, the innermost dimension last: (out, in) for a linear layer.
    kind : int
        GGUF's number for its quantisation.
    data : (bytes,), uint8
        The bytes of its quantised values.
    """

    shape: tuple[int, ...]
    kind: int
    data: np.ndarray


@dataclass(frozen=True)
class GGUF:
    """The content of a file: fields by name and tensors by name."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    def field(self, name: str, expected: type, default: Any = None) -> Any:
        """Return a field's value, or `default` if it is missing; raise ValueError if that is not of type `expected`."""
        value = self.fields.get(name, default)
        if not isinstance(value, expected):
            came = "is missing" if value is None else f"is a {type(value).__name__}"
            raise ValueError(f"{self.path}: the field {name} {came}; expected {expected.__name__}")
        return value


def read(path: str | os.PathLike[str]) -> GGUF:
    """Read the metadata and locate the tensors; their data stay on the disk until they are used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupted, big-endian or of another format; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        fields, tensors = _parse(np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8))
    except ValueError as error:  # a UnicodeDecodeError is a ValueError too
        raise ValueError(f"{path}: not a complete GGUF file ({one_line(error)})") from None
    return GGUF(path, fields, tensors)


def dequantise(tensor: Tensor) -> np.ndarray:
    """Return the tensor's values as float32, in its shape.

    Raises
    ------
    ValueError
        If the package gguf cannot undo the quantisation, or some values are not finite.
    """
    import gguf

    kind = gguf.GGMLQuantizationType(tensor.kind)
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # from a damaged scale; it is reported below
            x: np.ndarray = gguf.dequantize(tensor.data.reshape(*tensor.shape[:-1], -1), kind)
    except NotImplementedError:
        raise ValueError(f"the package gguf cannot undo the quantisation {kind.name}") from None
    if not np.isfinite(x).all():
        raise ValueError("some values are not finite")
    return x


class _Cursor:
    """A position in the file; every read is checked against the file's end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data.data
        self.at = 0

    def take(self, n: int) -> memoryview:
        if n > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data):,}, and {n:,} bytes are needed at byte {self.at:,}")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def string(self) -> str:
        return str(self.take(self.number("Q")), "utf-8")

    def name(self, what: str, taken: Collection[str]) -> str:
        """Read the name of a field or tensor, which has to differ from those in `taken`."""
        name = self.string()
        if not name.isprintable():
            raise ValueError(f"the {what} name {name!r} has characters that cannot be printed")
        if name in taken:
            raise ValueError(f"the {what} {name} is there twice")
        return name

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _LIST:
            if depth == _DEEPEST:
                raise ValueError(f"lists are nested more than {_DEEPEST} deep at byte {self.at:,}")
            of, length = self.number("I"), self.number("Q")
            if of not in (*_NUMBERS, _STRING, _LIST):
                raise ValueError(f"the values of a list at byte {self.at:,} are of the unknown kind {of}")
            if of in _NUMBERS:
                size = struct.calcsize("<" + _NUMBERS[of])
                return list(struct.unpack(f"<{length}{_NUMBERS[of]}", self.take(length * size)))
            return [self.value(of, depth + 1) for _ in range(length)]
        if kind not in _NUMBERS:
            raise ValueError(f"a value at byte {self.at:,} is of the unknown kind {kind}")
        return self.number(_NUMBERS[kind])


def _parse(data: np.ndarray) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cursor = _Cursor(data)
    if bytes(cursor.take(4)) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        raise ValueError("it is big-endian; expected little-endian numbers")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}; expected {' or '.join(map(str, _VERSIONS))}")
    n_tensors, n_fields = cursor.number("Q"), cursor.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        name = cursor.name("field", fields)
        fields[name] = cursor.value(cursor.number("I"))
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(n_tensors):
        name, n_sizes = cursor.name("tensor", found), cursor.number("I")
        if not 1 <= n_sizes <= _MOST_SIZES:
            raise ValueError(f"{name} has {n_sizes} sizes; expected 1 to {_MOST_SIZES}")
        shape = tuple(cursor.number("Q") for _ in range(n_sizes))[::-1]
        if 0 in shape:
            raise ValueError(f"{name} has the shape {shape}; expected sizes of at least 1")
        found[name] = shape, cursor.number("I"), cursor.number("Q")
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment={alignment!r} must be a whole number of at least 1")
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (shape, kind, offset) in found.items():
        cursor.at = start + offset
        n_bytes = _n_bytes(name, shape, kind)
        cursor.take(n_bytes)
        tensors[name] = Tensor(shape, kind, data[cursor.at - n_bytes : cursor.at])
    return fields, tensors


def _n_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    """Bytes of a tensor: its rows are cut into blocks, each with the same number of values and of bytes."""
    import gguf

    if kind not in gguf.GGML_QUANT_SIZES:
        raise ValueError(f"{name} has the unknown quantisation {kind}")
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    if shape[-1] % values:
        raise ValueError(f"{name} has rows of {shape[-1]} values; expected a multiple of {values}")
    return int(prod(shape) // values * size)
