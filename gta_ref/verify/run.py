"""Run an implementation over a suite of cases: ``verify(impl, suite="core")`` returns a Report."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gta_ref.errors import check_choice
from gta_ref.verify import abilities, cases, vectors
from gta_ref.verify.abilities import lacking
from gta_ref.verify.cases import DTYPE, DTYPES
from gta_ref.verify.compare import compare
from gta_ref.verify.diagnose import cause
from gta_ref.verify.exchange import LIBRARIES, from_numpy, to_numpy
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.vectors import Vector

Implementation = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
COTANGENTS = ("d_z", "d_lse", "d_out")


def verify(
    impl: Any,
    suite: str = "core",
    dtype: str | Sequence[str] = DTYPE,
    capabilities: Collection[str] | None = None,
    arrays: str = "numpy",
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Run an implementation over a suite.

    Parameters
    ----------
    impl : callable or object
        A function ``impl(arrays, settings)`` that returns named arrays: at least those that the case requires (for an
        attention case z, d_q, d_k, d_v; for a layer out, d_x, and d_NAME for every parameter NAME), and any inner
        stage that it has. Or an object with ``forward(arrays, settings) -> (named, saved)``,
        ``backward(cotangents, saved, settings) -> named`` and ``decode(arrays, settings) -> named``.
    suite : str
        "core", "attention", "layer", "lm", "large" or "all".
    dtype : str or sequence of str
        One or several of float64, float32, bfloat16, float16.
    capabilities : collection of str, optional
        What the implementation supports: some of attention, layer, lm, backward, decode, padding, lse, deterministic,
        the dtypes and the mechanisms' names. A case whose forward needs something else is skipped and counted as such.
        If only the gradients of a case need something else, its forward is checked, and the report counts the gradients
        that were not checked. Default: everything. If no level, no dtype or no mechanism is named, all levels, dtypes
        or mechanisms count as named.
    arrays : {"numpy", "torch", "jax", "cupy"}
        The library whose arrays `impl` accepts and returns.
    progress : callable, optional
        Called with the name of each case before it runs.

    Returns
    -------
    Report
    """
    check_choice("arrays", arrays, LIBRARIES)
    able = abilities.abilities(capabilities)
    steady = able is None or "deterministic" in able
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    whole, forward_only = to_function(impl), to_function(impl, backward=False)
    results = []
    for one in dtypes:
        check_choice("dtype", one, DTYPES)
        for case in cases.suite(suite, one):
            if progress is not None:
                progress(case.name)
            missing, behind = lacking(abilities.needs(case, one), able), lacking(abilities.gradient_needs(case), able)
            if missing:
                results.append(CaseResult(case.name, one, "skip", not_declared(missing)))
                continue
            vector = vectors.make(case.name, one)
            results.append(run_case(forward_only if behind else whole, vector, arrays, steady, behind))
    return Report(results)


def not_declared(needs: Collection[str]) -> str:
    """The reason why something was not checked, as the report states it."""
    return f"needs {', '.join(needs)}, not declared"


def run_case(
    call: Implementation,
    vector: Vector,
    library: str = "numpy",
    steady: bool = True,
    no_gradients: Collection[str] = (),
) -> CaseResult:
    """Run one case; with `steady`, run it twice and require equal results.

    `no_gradients` are the abilities that `call` lacks for the gradients; if there are any, only the forward is checked.
    """
    result = _run_case(call, vector, library, steady, no_gradients)
    if not no_gradients or result.status == "error":
        return result
    left = tuple(name for name in vector.required if name in vector.gradients)
    text = f"{result.text}; {len(left)} gradients not checked" if result.status == "pass" else result.text
    return replace(result, text=text, unchecked=left, why_unchecked=not_declared(no_gradients))


def _run_case(
    call: Implementation, vector: Vector, library: str, steady: bool, no_gradients: Collection[str]
) -> CaseResult:
    name, dtype = vector.case.name, vector.dtype
    checked = [key for key in vector.expected if not no_gradients or key not in vector.gradients]
    # an implementation without lse is not given the cotangent of lse
    left_out = {"d_lse"} & vector.inputs.keys() if "lse" in no_gradients else set()
    runs = []
    for _ in range(2 if steady else 1):
        private = {key: np.array(x) for key, x in vector.inputs.items() if key not in left_out}
        try:
            given = from_numpy(private, library)
            before = {key: np.array(to_numpy(x)) for key, x in given.items()}
            named = call(given, vector.settings)
            if not isinstance(named, Mapping):
                raise TypeError(f"returned a {type(named).__name__}; expected a mapping of names to arrays")
            outputs = {key: to_numpy(x, key) for key, x in named.items() if key in checked}
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
    return judge(vector, runs[0], [key for key in vector.required if key in checked])


def judge(vector: Vector, given: Mapping[str, np.ndarray], wanted: Collection[str] | None = None) -> CaseResult:
    """Compare the given arrays with a vector and turn the findings into the result of the case."""
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


def to_function(impl: Any, *, backward: bool = True) -> Implementation:
    """Turn `impl` into a function of (arrays, settings); without `backward`, an object's backward is not called."""
    if not hasattr(impl, "forward"):
        if not callable(impl):
            raise ValueError(f"impl is a {type(impl).__name__}; expected a function or an object with forward")
        function: Implementation = impl
        return function

    def call(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
        named: Mapping[str, Any]
        if settings.get("chunks"):
            named = impl.decode(arrays, settings)
            return named
        inputs = {name: x for name, x in arrays.items() if name not in COTANGENTS}
        named, saved = impl.forward(inputs, settings)
        if not backward or not hasattr(impl, "backward"):
            return named
        cotangents = {name: x for name, x in arrays.items() if name in COTANGENTS}
        return {**named, **impl.backward(cotangents, saved, settings)}

    return call


def load(text: str) -> Any:
    """Import ``package.module:name``; modules in the current folder can be imported, as with python -m.

    Raises
    ------
    ValueError
        If `text` has another form, or if the module or the name does not exist.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name or module.startswith("."):  # a relative import has no meaning here
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
