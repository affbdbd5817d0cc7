"""Test vectors in safetensors files, one case in one dtype each.

File layout, schema version 2: the tensors ``input.NAME`` have the dtype of the case (bounds, positions, ids and targets
are int64); the tensors ``expected.NAME`` are in float64 and in the order of computation. The metadata entry ``gta_ref``
is JSON: schema, case, level, tags, case_seed, dtype, seed, products, settings, conventions, order, required, what is
allowed (budgets, rms, slopes, singles, fine: see :class:`gta_ref.verify.tolerance.Limits`), and sha256 (of each
tensor's bytes). The entry ``gta_ref_sha256`` is the checksum of that text and of all names, dtypes and shapes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.verify.cases import DTYPES, LEVELS, Case
from gta_ref.verify.plain import PRODUCTS
from gta_ref.verify.tolerance import DullCaseError, Limits, check_sharp
from gta_ref.verify.vector import Vector, make

__all__ = [
    "CONVENTIONS",
    "SCHEMA",
    "DamagedVectorError",
    "Vector",
    "check_file",
    "digest",
    "file_name",
    "make",
    "read",
    "write",
]

SCHEMA = 2
CONVENTIONS = {
    "arrays": "(B, heads, N, width) inside attention, (B, N, H) outside; weights act from the right: y = x w + b",
    "mask": "query row i sees key j iff k_start <= j < k_stop and, if causal, j <= q_start + i",
    "lse": "natural logarithm; -inf, and z = 0, in a row that sees nothing",
    "heads": "map m uses key head m // (n_q/n_k) and value head m // (n_q/n_v); output head i uses map i // (n_h/n_q)",
    "scores": "scaled, before masking; unused slots of k and v count as 0 (in a layer they are not compared)",
    "gate": "after its activation, from the query's token",
    "gradients": "d_NAME is the gradient of sum(cotangent * output)",
}
_LIMITS = tuple(field.name for field in fields(Limits))
_WHOLE = ("budgets", "fine")  # those of them that every array has
# of the metadata's JSON, apart from schema and conventions: name → type, and type of what it holds if that is fixed
_ENTRIES: dict[str, tuple[Any, type | tuple[type, ...] | None]] = {
    "case": (str, None),
    "level": (str, None),
    "dtype": (str, None),
    "case_seed": (int, None),
    "seed": (int, None),
    "products": (str | None, None),
    "tags": (list, str),
    "settings": (dict, None),
    "order": (list, str),
    "required": (list, str),
    **dict.fromkeys(_LIMITS, (dict, (int, float))),
    "sha256": (dict, str),
}


class DamagedVectorError(ValueError):
    """Raised for a file of vectors whose tensors differ from those that were written.

    Attributes
    ----------
    missing, changed : list of str
        Names of the tensors that are missing or changed.
    """

    def __init__(self, message: str, missing: list[str], changed: list[str]) -> None:
        super().__init__(message)
        self.missing, self.changed = missing, changed


def file_name(case: Case) -> str:
    """Name of a case's file."""
    return case.name.replace("/", "-") + ".safetensors"


def write(vector: Vector, path: str | os.PathLike[str]) -> None:
    """Write a vector to a file."""
    tensors = {f"input.{name}": x for name, x in vector.inputs.items()}
    tensors |= {f"expected.{name}": x for name, x in vector.expected.items()}
    case = vector.case
    content = {
        "schema": SCHEMA,
        "case": case.name,
        "level": case.level,
        "tags": case.tags,
        "case_seed": case.seed,
        "dtype": vector.dtype,
        "seed": vector.seed,
        "products": vector.products,
        "settings": case.settings,
        "conventions": CONVENTIONS,
        "order": list(vector.expected),
        "required": vector.required,
        **vector.limits.to_dict(),
        "sha256": {name: digest(x) for name, x in tensors.items()},
    }
    text = json.dumps(content)
    write_tensors(path, tensors, {"gta_ref": text, "gta_ref_sha256": _header_digest(text, tensors)})


def digest(x: np.ndarray) -> str:
    """sha256 of an array's bytes in row-major order."""
    return hashlib.sha256(np.asarray(x, order="C").tobytes()).hexdigest()


def _header_digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 of the metadata's JSON text and of every tensor's name, dtype and shape."""
    lines = [text, *(f"{name} {x.dtype} {x.shape}" for name, x in sorted(tensors.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read(path: str | os.PathLike[str]) -> Vector:
    """Read a vector and check every tensor.

    Raises
    ------
    DamagedVectorError
        If tensors are missing or differ from those that were written; it names them.
    ValueError
        If the file is foreign, truncated, or has another schema; if its metadata are not as written, or allow so much
        that they would let a senseless result pass.
    """
    tensors, metadata = read_tensors(path)
    content = check_file(path, tensors, metadata)
    unknown = sorted(tensors.keys() - content["sha256"].keys())
    if unknown:
        raise ValueError(f"{Path(path).name}: unknown {one_line(', '.join(unknown))}")
    name = Path(path).name
    if metadata.get("gta_ref_sha256") != _header_digest(metadata["gta_ref"], tensors):
        raise ValueError(f"{name}: its metadata or the tensors' shapes are not as written (sha256)")
    required = tuple(content["required"])
    case = Case(content["case"], content["level"], tuple(content["tags"]), content["case_seed"], content["settings"])
    inputs = {n.removeprefix("input."): x for n, x in tensors.items() if n.startswith("input.")}
    expected = {key: tensors[f"expected.{key}"] for key in content["order"]}
    allowed = Limits(**{entry: content[entry] for entry in _LIMITS})
    try:
        check_sharp(required, expected, allowed.budgets)
    except DullCaseError as error:
        raise ValueError(f"{name}: its budgets are too large: {error}") from None
    return Vector(case, content["dtype"], inputs, expected, allowed, required, content["seed"], content["products"])


def check_file(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Return the metadata of a file of vectors; raise DamagedVectorError if a tensor is missing or has changed."""
    content = _content(path, metadata)
    sha256 = content["sha256"]
    missing = [name for name in sha256 if name not in tensors]
    changed = [name for name, want in sha256.items() if name in tensors and digest(tensors[name]) != want]
    if missing or changed:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"{', '.join(changed)} not as written (sha256)"] if changed else []
        raise DamagedVectorError(f"{Path(path).name}: {one_line('; '.join(parts))}", missing, changed)
    return content


def _content(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    name = Path(path).name
    if "gta_ref" not in metadata:
        raise ValueError(f"{name}: no entry gta_ref in its metadata; expected a file of gta-ref vectors export")
    try:
        content = parse_json(metadata["gta_ref"])
        schema = content["schema"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name}: its metadata entry gta_ref is not what gta-ref writes") from None
    if type(schema) is not int or schema != SCHEMA:
        older = type(schema) is int and schema < SCHEMA
        advice = "gta-ref vectors export writes it anew" if older else "a newer gta_ref may read it"
        raise ValueError(f"{name}: schema={one_line(repr(schema))} must be {SCHEMA}; {advice}")
    try:
        _check_entries(content)
    except ValueError as error:
        reason = one_line(error)
        raise ValueError(f"{name}: its metadata entry gta_ref is not what gta-ref writes ({reason})") from None
    return dict(content)


def _check_entries(content: Mapping[str, Any]) -> None:
    """Raise ValueError unless every entry of the metadata has the type and the names that :func:`write` gives it."""
    for name, (kind, inner) in _ENTRIES.items():
        value: Any = content.get(name)
        fits = name in content and isinstance(value, kind) and not isinstance(value, bool)
        if fits and inner is not None:
            values = value.values() if isinstance(value, dict) else value
            fits = all(isinstance(x, inner) and not isinstance(x, bool) for x in values)
        if not fits:
            raise ValueError(f"{name} is missing or has another type")
    check_choice("level", content["level"], LEVELS)
    check_choice("dtype", content["dtype"], DTYPES)
    if content["products"] is not None:
        check_choice("products", content["products"], PRODUCTS)
    order = content["order"]
    if len(set(order)) < len(order) or any(f"expected.{name}" not in content["sha256"] for name in order):
        raise ValueError("order must name tensors that sha256 names, each once")
    if not set(content["required"]) <= set(order) or any(content[entry].keys() != set(order) for entry in _WHOLE):
        raise ValueError(f"required, {' and '.join(_WHOLE)} must name arrays that order names")
    for entry in _LIMITS:
        if not content[entry].keys() <= set(order):
            raise ValueError(f"{entry} must name arrays that order names")
        if not all(0 <= limit <= sys.float_info.max for limit in content[entry].values()):  # not true of NaN
            raise ValueError(f"{entry} must be finite numbers of at least 0")
    if not content["case"].isprintable():
        raise ValueError(f"case={content['case']!r} has characters that cannot be printed")
