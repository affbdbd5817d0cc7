"""Test vectors: a case with its inputs, the true results and the budgets, in memory or in a safetensors file.

File layout, schema version 1: the tensors ``input.NAME`` have the dtype of the case (bounds, positions and ids are
int64); the tensors ``expected.NAME`` are in float64 and in the order of computation. The metadata entry ``gta_ref`` is
JSON: schema, case, level, tags, dtype, seed, settings, conventions, order, required, budgets, and sha256 (of each
tensor's bytes). The entry ``gta_ref_sha256`` is the checksum of that entry and of all names, dtypes and shapes; files
of earlier versions lack it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.verify.cases import DTYPES, LEVELS, Case, find
from gta_ref.verify.tolerance import budgets, check_sharp
from gta_ref.verify.truth import draw, wide

SCHEMA = 1
CONVENTIONS = {
    "arrays": "(B, heads, N, width) inside attention, (B, N, H) outside; weights act from the right: y = x w + b",
    "mask": "query row i sees key j iff k_start <= j < k_stop and, if causal, j <= q_start + i",
    "lse": "natural logarithm; -inf, and z = 0, in a row that sees nothing",
    "heads": "map m uses key head m // (n_q/n_k) and value head m // (n_q/n_v); output head i uses map i // (n_h/n_q)",
    "scores": "scaled, before masking; unused slots of k and v count as 0",
    "gate": "after its activation, from the query's token",
    "gradients": "d_NAME is the gradient of sum(cotangent * output)",
}
# of the metadata's JSON, apart from schema and conventions: name → type, and type of what it holds if that is fixed
_ENTRIES: dict[str, tuple[type, type | tuple[type, ...] | None]] = {
    "case": (str, None),
    "level": (str, None),
    "dtype": (str, None),
    "seed": (int, None),
    "tags": (list, str),
    "settings": (dict, None),
    "order": (list, str),
    "required": (list, str),
    "budgets": (dict, (int, float)),
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


@dataclass(frozen=True)
class Vector:
    """A case in one dtype, with all its numbers.

    Attributes
    ----------
    case : Case
    dtype : str
    inputs : dict of str to array
    expected : dict of str to float64 array
        The true results, in the order of computation.
    budgets : dict of str to float
        The largest allowed error of each array.
    required : tuple of str
        Names of the arrays that an implementation must return.
    """

    case: Case
    dtype: str
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    budgets: dict[str, float]
    required: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What an implementation is told about the case: its settings, level, name and dtype."""
        return {"level": self.case.level, "case": self.case.name, "dtype": self.dtype, **self.case.settings}

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of the arrays that the backward computes, including its inner stages."""
        return tuple(name for name in self.expected if name.startswith("d_"))


@lru_cache(maxsize=512)
def make(name: str, dtype: str) -> Vector:
    """Compute the numbers of a case; a case in which a senseless result would nearly pass is refused."""
    problem = draw(find(name), dtype)
    expected = {key: np.asarray(x, np.float64) for key, x in problem.compute(wide(problem.inputs)).items()}
    budget = budgets(problem, expected)
    check_sharp(problem, expected, budget)
    for x in (*problem.inputs.values(), *expected.values()):
        x.flags.writeable = False
    return Vector(problem.case, dtype, problem.inputs, expected, budget, problem.required)


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
        "dtype": vector.dtype,
        "seed": case.seed,
        "settings": case.settings,
        "conventions": CONVENTIONS,
        "order": list(vector.expected),
        "required": vector.required,
        "budgets": vector.budgets,
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
        If the file is foreign, truncated, or has another schema.
    """
    tensors, metadata = read_tensors(path)
    content = check_file(path, tensors, metadata)
    unknown = sorted(tensors.keys() - content["sha256"].keys())
    if unknown:
        raise ValueError(f"{Path(path).name}: unknown {one_line(', '.join(unknown))}")
    header_sha256 = _header_digest(metadata["gta_ref"], tensors)
    if metadata.get("gta_ref_sha256", header_sha256) != header_sha256:
        raise ValueError(f"{Path(path).name}: its metadata or the tensors' shapes are not as written (sha256)")
    case = Case(content["case"], content["level"], tuple(content["tags"]), content["seed"], content["settings"])
    inputs = {n.removeprefix("input."): x for n, x in tensors.items() if n.startswith("input.")}
    expected = {name: tensors[f"expected.{name}"] for name in content["order"]}
    return Vector(case, content["dtype"], inputs, expected, content["budgets"], tuple(content["required"]))


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
        raise ValueError(f"{name}: schema={one_line(repr(schema))} must be {SCHEMA}; a newer gta_ref may read it")
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
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if fits and inner is not None:
            values = value.values() if isinstance(value, dict) else value
            fits = all(isinstance(x, inner) and not isinstance(x, bool) for x in values)
        if not fits:
            raise ValueError(f"{name} is missing or has another type")
    check_choice("level", content["level"], LEVELS)
    check_choice("dtype", content["dtype"], DTYPES)
    order = content["order"]
    if len(set(order)) < len(order) or any(f"expected.{name}" not in content["sha256"] for name in order):
        raise ValueError("order must name tensors that sha256 names, each once")
    if not set(content["required"]) <= set(order) or content["budgets"].keys() != set(order):
        raise ValueError("required and budgets must name arrays that order names")
    if not all(0 <= budget <= sys.float_info.max for budget in content["budgets"].values()):  # not true of NaN
        raise ValueError("budgets must be finite numbers of at least 0")
    if not content["case"].isprintable():
        raise ValueError(f"case={content['case']!r} has characters that cannot be printed")
