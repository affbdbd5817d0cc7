"""Run an implementation over a suite of cases: ``verify(impl, suite="core")`` gives a Report."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.verify import cases, vectors
from gta_ref.verify.cases import ABILITIES, DTYPES
from gta_ref.verify.compare import compare
from gta_ref.verify.diagnose import cause
from gta_ref.verify.exchange import LIBRARIES, from_numpy, to_numpy
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.vectors import Vector

Implementation = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
COTANGENTS = ("d_z", "d_lse", "d_out")
ALWAYS = ("deterministic",)  # an ability that is not asked for by a case but by the run


def verify(
    impl: Any,
    suite: str = "core",
    dtype: str | Sequence[str] = "float32",
    capabilities: Collection[str] | None = None,
    arrays: str = "numpy",
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Run an implementation over a suite.

    Parameters
    ----------
    impl : callable or object
        ``impl(arrays, settings)`` returns named arrays: at least the required ones of the case (z, d_q, d_k, d_v
        of an attention case; out, d_x and d_ with every parameter's name of a layer), and any inner stage that it
        has. Or an object with ``forward(arrays, settings) -> (named, saved)``,
        ``backward(cotangents, saved, settings) -> named`` and ``decode(arrays, settings) -> named``.
    suite : str
        "core", "attention", "layer", "lm", "large" or "all".
    dtype : str or sequence of str
        Of float64, float32, bfloat16, float16.
    capabilities : collection of str, optional
        What the implementation can: of attention, layer, lm, backward, decode, padding, lse, deterministic, the
        dtypes and the mechanisms' names. A case that needs another is skipped, and counted as such. Default: all.
        Where no level, no dtype or no mechanism is named, all of them count as named.
    arrays : {"numpy", "torch", "jax", "cupy"}
        The library whose arrays `impl` takes and returns.
    progress : callable, optional
        Called with each case's name.

    Returns
    -------
    Report
    """
    check_choice("arrays", arrays, LIBRARIES)
    able = _abilities(capabilities)
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    call = to_function(impl, able)
    results = []
    for one in dtypes:
        check_choice("dtype", one, DTYPES)
        for case in cases.suite(suite, one):
            if progress is not None:
                progress(case.name)
            missing = [need for need in case.needs(one) if able is not None and need not in able]
            if missing:
                results.append(CaseResult(case.name, one, "skip", f"needs {', '.join(missing)}, not declared"))
                continue
            steady = able is None or "deterministic" in able
            results.append(run_case(call, vectors.make(case.name, one), arrays, steady, able))
    return Report(results)


def run_case(
    call: Implementation,
    vector: Vector,
    library: str = "numpy",
    steady: bool = True,
    able: Collection[str] | None = None,
) -> CaseResult:
    """Run one case, twice where results have to be the same from run to run."""
    name, dtype = vector.case.name, vector.dtype
    runs = []
    for _ in range(2 if steady else 1):
        private = {key: np.array(x) for key, x in vector.inputs.items()}
        try:
            given = from_numpy(private, library)
            before = {key: np.array(to_numpy(x)) for key, x in given.items()}
            named = call(given, vector.settings)
            if not isinstance(named, Mapping):
                raise TypeError(f"returned a {type(named).__name__}; expected a mapping of names to arrays")
            outputs = {key: to_numpy(x, key) for key, x in named.items() if key in vector.expected}
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            return CaseResult(name, dtype, "error", f"{type(error).__name__}: {text}")
        written = [key for key, x in given.items() if not _same_bytes(to_numpy(x), before[key])]
        if written:
            return CaseResult(name, dtype, "fail", f"writes into its input {', '.join(written)}")
        if library == "numpy":
            shared = [k for k, x in outputs.items() for y in given.values() if np.shares_memory(x, y)]
            if shared:
                return CaseResult(name, dtype, "fail", f"{shared[0]} shares memory with an input")
        runs.append(outputs)
    if steady:
        unsteady = [key for key, x in runs[0].items() if key not in runs[1] or not _same_bytes(x, runs[1][key])]
        if unsteady:
            return CaseResult(name, dtype, "fail", f"{unsteady[0]} differs from run to run")
    return judge(vector, runs[0], _wanted(vector, able))


def judge(vector: Vector, given: Mapping[str, np.ndarray], wanted: Collection[str] | None = None) -> CaseResult:
    """Compare what was given with a vector and say what it means."""
    findings = compare(vector, given, wanted)
    worst = max((f.ratio for f in findings if f.kind == "ok"), default=0.0)
    bad = next((f for f in findings if f.kind not in ("ok", "missing")), None)
    name, dtype = vector.case.name, vector.dtype
    if bad is not None:
        return CaseResult(
            name, dtype, "fail", bad.text, stage=bad.name, kind=bad.kind, index=bad.index, ratio=bad.ratio,
            cause=cause(vector, given, findings), findings=findings,
        )  # fmt: skip
    missing = [f for f in findings if f.kind == "missing"]
    if missing:
        text = f"not given: {', '.join(f.name for f in missing)}"
        return CaseResult(name, dtype, "missing", text, stage=missing[0].name, kind="missing", findings=findings)
    return CaseResult(name, dtype, "pass", f"{worst:.2f} of its budget", ratio=worst, findings=findings)


def _abilities(capabilities: Collection[str] | None) -> set[str] | None:
    """Check the declared abilities; a kind of which none is named counts as named in full."""
    if capabilities is None:
        return None
    declared = set(capabilities)
    for one in declared:
        check_choice("capabilities", one, (*ABILITIES, *ALWAYS))
    for kind in (ABILITIES[:3], DTYPES, ABILITIES[-6:]):
        if not declared & set(kind):
            declared |= set(kind)
    return declared


def _wanted(vector: Vector, able: Collection[str] | None) -> list[str]:
    """The required arrays, without gradients where the implementation has no backward."""
    if able is not None and "backward" not in able:
        return [name for name in vector.required if not name.startswith("d_")]
    return list(vector.required)


def to_function(impl: Any, able: Collection[str] | None = None) -> Implementation:
    """One function of (arrays, settings), whatever `impl` is."""
    if not hasattr(impl, "forward"):
        if not callable(impl):
            raise ValueError(f"impl is a {type(impl).__name__}; expected a function or an object with forward")
        return impl

    def call(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
        if settings.get("chunks"):
            return impl.decode(arrays, settings)
        inputs = {name: x for name, x in arrays.items() if name not in COTANGENTS}
        named, saved = impl.forward(inputs, settings)
        if not hasattr(impl, "backward") or (able is not None and "backward" not in able):
            return named
        cotangents = {name: x for name, x in arrays.items() if name in COTANGENTS}
        return {**named, **impl.backward(cotangents, saved, settings)}

    return call


def load(text: str) -> Any:
    """Import ``package.module:name``; the folder that one is in counts as importable, as for python -m.

    Raises
    ------
    ValueError
        Where it is not of this form, or is not there.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"impl={text!r} must be of the form package.module:name")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"impl={text!r}: no module {error.name}") from None
    finally:
        sys.path.pop(0)
    if not hasattr(found, name):
        raise ValueError(f"impl={text!r}: {module} has no {name}")
    return getattr(found, name)


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


__all__ = ["judge", "load", "run_case", "to_function", "verify"]
