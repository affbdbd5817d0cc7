"""Verify dumps: files in which a program in any language has written its results for the vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.ops import as_dtype
from gta_ref.verify import abilities, vectors
from gta_ref.verify.cases import DTYPES
from gta_ref.verify.diagnose import settled
from gta_ref.verify.dump_files import AbsentDumpError, Dumps, hints
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.run import judge, promises
from gta_ref.verify.vectors import DamagedVectorError, Vector

WANTED = ("all", "required")


def verify_dumps(
    folder: Path,
    against: Path,
    wanted: str = "all",
    *,
    capabilities: Collection[str] | None = None,
    without: Collection[str] = (),
    head_dim: Any = None,
) -> Report:
    """Compare dumps with the files of the same names in a folder of vectors.

    Parameters
    ----------
    folder : path
        A folder with one file for each case, .safetensors or .npz, in which arrays are named ``NAME`` or
        ``expected.NAME`` as in the vectors. Or one file with all cases, in which they are named ``CASE/NAME``, such as
        ``attention/plain/z``.
    against : path
        Folder that ``gta-ref vectors export`` has written; with several dtypes, it has one folder for each.
    wanted : {"all", "required"}
        Which arrays must be present: every named stage, or only outputs and gradients.
    capabilities, without, head_dim
        What the program supports, as for ``gta_ref.verify.verify``. Cases that need more are skipped, whether
        they have a dump or not; gradients that need more are not checked.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If `folder` or `against` does not exist, `against` contains no vectors, there is no dump for any of them, or an
        argument is unknown.
    """
    check_choice("wanted", wanted, WANTED)
    able, pairs = abilities.abilities(capabilities, without), abilities.head_dims(head_dim)
    if not against.is_dir():
        is_file = " is a file; expected the folder of vectors (--against)"
        raise ValueError(f"{against}{is_file if against.exists() else ': no such folder'}")
    # hidden files are those that a killed program leaves
    files = sorted(path for part in ("", *DTYPES) for path in (against / part).glob("[!.]*.safetensors"))
    if not files:
        raise ValueError(f"{against}: no *.safetensors there; gta-ref vectors export writes them")
    stems = {path: path.relative_to(against).with_suffix("").as_posix() for path in files}
    dumps = Dumps(folder, stems.values())
    results = [_one(dumps, path, stem, wanted, able, pairs) for path, stem in stems.items()]
    ran = [result for result in results if result.status != "skip"]
    if ran and all(result.status == "missing" and result.stage is None for result in ran):
        raise ValueError(f"{folder}: no dump is there for any of the {len(ran)} vectors; {ran[0].text}")
    return Report(settled(results))


def _one(
    dumps: Dumps, path: Path, stem: str, wanted: str, able: frozenset[str], pairs: Collection[tuple[int, int]] | None
) -> CaseResult:
    name, dtype = path.stem, ""
    try:
        vector = vectors.read(path)
        name, dtype = vector.case.name, vector.dtype
        why = abilities.why_skip(vector.case, dtype, able, pairs)
        if why is not None:
            return CaseResult(name, dtype, "skip", why)
        names = (f"{dtype}/{name}",) if "/" in stem else (name, f"{dtype}/{name}")
        given, unknown = _given(*dumps.read(stem, names), path.name, vector)
    except DamagedVectorError as error:
        status = "fail" if error.changed else "missing"
        first = (*error.changed, *error.missing)[0].partition(".")[2]
        return CaseResult(name, dtype, status, str(error), stage=first, kind=status)
    except AbsentDumpError as error:
        return CaseResult(name, dtype, "missing", str(error), kind="missing")
    except ValueError as error:
        return CaseResult(name, dtype, "error", str(error))
    return _judged(vector, given, unknown, wanted, able)


def _judged(
    vector: Vector, given: Mapping[str, np.ndarray], unknown: list[str], wanted: str, able: frozenset[str]
) -> CaseResult:
    """Compare what these abilities promise, and say which names are nearly right."""
    behind = abilities.lacking(abilities.gradient_needs(vector.case), able)
    checked = [name for name in vector.expected if not behind or name not in vector.gradients]
    required = (*vector.required, *promises(vector.case, able))
    names = [name for name in checked if wanted == "all" or name in required]
    result = judge(vector, {name: x for name, x in given.items() if name in checked}, names)
    meant = hints(unknown, [name for name in checked if name not in given])
    if meant:
        result = replace(result, text=f"{result.text}; {', '.join(meant)}")
    result = replace(result, withheld=tuple(name for name in result.withheld if name in checked))
    if not behind:
        return result
    left = tuple(name for name in vector.required if name in vector.gradients)
    text = f"{result.text}; {len(left)} gradients not checked" if result.status == "pass" else result.text
    return replace(result, text=text, unchecked=left, why_unchecked=abilities.not_declared(behind))


def _given(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], file: str, vector: Vector
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a dump by plain name, and the names that the case does not have.

    Required arrays named ``expected.NAME`` are rounded to the dtype of the case.
    """
    if "gta_ref" in metadata:  # the file was written by gta-ref vectors, so that its tensors can be checked
        content = vectors.check_file(file, tensors, metadata)
        if content["dtype"] != vector.dtype:
            raise ValueError(f"{file} is in {content['dtype']}; expected {vector.dtype}")
    given = {name: x for name, x in tensors.items() if name in vector.expected}
    unknown = []
    for name, x in tensors.items():
        kind, _, plain = name.partition(".")
        if kind == "expected" and plain in vector.expected:
            given[plain] = x.astype(as_dtype(vector.dtype)) if plain in vector.required else x
        elif name not in given and not (kind == "input" and plain in vector.inputs) and name not in vector.inputs:
            unknown.append(name)
    return given, unknown
