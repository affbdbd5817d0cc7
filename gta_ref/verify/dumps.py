"""Verify dumps: safetensors files in which a program in any language has written its results for the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gta_ref.files import read_tensors
from gta_ref.ops import as_dtype
from gta_ref.verify import vectors
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.run import judge
from gta_ref.verify.vectors import DamagedVectorError, Vector

WANTED = ("all", "required")


def verify_dumps(folder: Path, against: Path, wanted: str = "all") -> Report:
    """Compare the files in a folder of dumps with the files of the same names in a folder of vectors.

    Parameters
    ----------
    folder : path
        Files with tensors named ``NAME`` or ``expected.NAME``, as in the vectors.
    against : path
        Folder that ``gta-ref vectors export`` has written.
    wanted : {"all", "required"}
        Which arrays must be present: every named stage, or only outputs and gradients.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If a folder does not exist or `against` contains no vectors.
    """
    for path in (folder, against):
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
    files = sorted(against.glob("[!.]*.safetensors"))  # no hidden files, such as a killed program leaves
    if not files:
        raise ValueError(f"{against}: no *.safetensors there; gta-ref vectors export writes them")
    return Report([_one(folder / file.name, file, wanted) for file in files])


def _one(dump: Path, file: Path, wanted: str) -> CaseResult:
    name, dtype = file.stem, ""
    try:
        vector = vectors.read(file)
        name, dtype = vector.case.name, vector.dtype
        given = _given(dump, vector)
    except DamagedVectorError as error:
        status = "fail" if error.changed else "missing"
        first = (*error.changed, *error.missing)[0].partition(".")[2]
        return CaseResult(name, dtype, status, str(error), stage=first, kind=status)
    except FileNotFoundError:
        return CaseResult(name, dtype, "missing", f"{dump.name} was not given", kind="missing")
    except ValueError as error:
        return CaseResult(name, dtype, "error", str(error))
    return judge(vector, given, vector.expected if wanted == "all" else vector.required)


def _given(dump: Path, vector: Vector) -> Mapping[str, np.ndarray]:
    """A dump's arrays by plain name; required arrays named ``expected.NAME`` are rounded to the dtype of the case."""
    tensors, metadata = read_tensors(dump)
    if "gta_ref" in metadata:  # the file was written by gta-ref vectors, so that its tensors can be checked
        vectors.check_file(dump, tensors, metadata)
    given = {name: x for name, x in tensors.items() if name in vector.expected}
    for name, x in tensors.items():
        kind, _, plain = name.partition(".")
        if kind == "expected" and plain in vector.expected:
            given[plain] = x.astype(as_dtype(vector.dtype)) if plain in vector.required else x
    return given
