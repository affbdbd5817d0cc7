"""Run an implementation over a suite of cases: ``verify(impl, suite="core")`` returns a Report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from gta_ref.errors import as_positive_float, as_size, check_bool, check_choice
from gta_ref.verify import abilities, vectors
from gta_ref.verify.abilities import lacking, not_declared
from gta_ref.verify.attempt import Job, Outcome, attempt
from gta_ref.verify.candidate import Implementation, load, name_of, to_function
from gta_ref.verify.cases import DTYPE, Case
from gta_ref.verify.compare import compare
from gta_ref.verify.diagnose import explanations, settled
from gta_ref.verify.exchange import LIBRARIES
from gta_ref.verify.report import CaseResult, Report
from gta_ref.verify.select import count_absent, dtypes_of, names_of, select
from gta_ref.verify.tolerance import DullCaseError
from gta_ref.verify.vectors import Vector

Caller = Callable[[Job], Outcome]


def verify(
    impl: Any,
    suite: str | None = None,
    dtype: str | Sequence[str] = DTYPE,
    capabilities: Collection[str] | None = None,
    arrays: str = "numpy",
    progress: Callable[[str], None] | None = None,
    *,
    cases: str | Sequence[str] | None = None,
    without: Collection[str] = (),
    head_dim: Any = None,
    products: str | None = None,
    seed: int = 0,
    repeat: int | None = None,
    isolate: bool = False,
    timeout: float | None = None,
) -> Report:
    """Run an implementation over a suite.

    Parameters
    ----------
    impl : callable, object or str
        A function ``impl(arrays, settings)`` that returns named arrays: at least those that the case requires (for an
        attention case z, d_q, d_k, d_v; for a layer out, d_x, and d_NAME for every parameter NAME), and any inner
        stage that it has. Or an object with ``forward(arrays, settings) -> (named, saved)``,
        ``backward(cotangents, saved, settings) -> named`` and ``decode(arrays, settings) -> named``. Or
        ``package.module:name``, the name of either. An implementation that raises NotImplementedError skips the case.
    suite : str, optional
        One of ``gta_ref.verify.cases.SUITES``; default "core", or all for `cases`.
    dtype : str or sequence of str
        One or several of float64, float32, bfloat16, float16.
    capabilities : collection of str, optional
        What the implementation supports; ``gta_ref.verify.abilities`` lists it. A case whose forward needs something
        else is skipped and counted as such. If only the gradients of a case need something else, its forward is
        checked, and the report counts the gradients that were not checked. Default: what an adapter says of itself,
        and else everything. If no level, dtype, mechanism or feature is named, all of that group count as named.
    arrays : str
        The library whose arrays `impl` accepts and returns: numpy, torch, jax and others in
        ``gta_ref.verify.exchange.LIBRARIES``.
    progress : callable, optional
        Called before each case with a text such as "12 of 71 attention/plain".
    cases : str or sequence of str, optional
        Names of cases or patterns, such as "attention/left-padded" or "layer/gta-*".
    without : collection of str
        Capabilities that `impl` lacks.
    head_dim : int, str or sequence, optional
        Widths of a head that `impl` supports: (64, 128), or "192x128" for d_k and d_v. Other cases are skipped.
    products : {"tf32"}, optional
        The precision to which matrix products may round their operands, if it is lower than float32.
    seed : int
        0 for the standard inputs; any other for fresh ones of the same kind.
    repeat : int, optional
        How often each case runs. Default: 2 if `impl` is deterministic, and else 1.
    isolate : bool
        Whether `impl` runs in a process of its own, so that its exit, crash or time-out is an error of one case.
    timeout : float, optional
        With `isolate`, the seconds that a case may take.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If an argument is unknown, or `impl` cannot be called.
    """
    check_choice("arrays", arrays, LIBRARIES)
    check_bool("isolate", isolate)
    if timeout is not None:
        timeout = as_positive_float("timeout", timeout)
        if not isolate:
            raise ValueError("timeout needs isolate: only a process of its own can be stopped")
    abilities.abilities(capabilities, without)  # a wrong name is an error before anything is started
    pairs = abilities.head_dims(head_dim)
    repeat = None if repeat is None else as_size("repeat", repeat)
    seed = as_size("seed", seed, at_least=0)
    dtypes, patterns = dtypes_of(dtype), names_of(cases, "cases")
    selected = select(suite, patterns, dtypes)
    results = []
    with _caller(impl, isolate, timeout) as (call, own):
        capabilities = own if capabilities is None else capabilities
        able = abilities.abilities(capabilities, without)
        steady = "deterministic" in able
        repeats = repeat or (2 if steady else 1)
        for number, (case, one) in enumerate(selected, start=1):
            if progress is not None:
                progress(f"{number} of {len(selected)} {case.name}")
            why = abilities.why_skip(case, one, able, pairs)
            if why is not None:
                results.append(CaseResult(case.name, one, "skip", why))
                continue
            try:
                vector = vectors.make(case.name, one, seed, products)
            except DullCaseError as error:
                results.append(CaseResult(case.name, one, "skip", str(error)))
                continue
            behind = lacking(abilities.gradient_needs(case), able)
            promised = promises(case, able)
            results.append(_run_case(call, vector, arrays, steady, behind, repeats, promised))
    run = {
        "impl": name_of(impl), "suite": suite or (None if patterns else "core"), "cases": patterns, "dtype": dtypes,
        "arrays": arrays, "capabilities": _listed(capabilities), "without": _listed(without) or [],
        "head_dim": None if pairs is None else [f"{d_k}x{d_v}" for d_k, d_v in sorted(pairs)],
        "products": products, "seed": seed, "repeat": repeat, "isolate": isolate, "timeout": timeout,
    }  # fmt: skip
    return Report(settled(results), run, count_absent(suite, patterns, dtypes))


def promises(case: Case, able: Collection[str]) -> tuple[str, ...]:
    """Arrays that an implementation with these abilities must return although the case does not require them."""
    return ("lse",) if case.level == "attention" and "lse" in able else ()


def inputs_for(vector: Vector, no_gradients: Collection[str]) -> dict[str, np.ndarray]:
    """The inputs that are handed out; without d_lse if there is no gradient of lse."""
    left_out = {"d_lse"} if "lse-gradient" in no_gradients else set()
    return {name: x for name, x in vector.inputs.items() if name not in left_out}


def _listed(names: Collection[str] | None) -> list[str] | None:
    if names is None:
        return None
    return [word.strip() for word in names.split(",")] if isinstance(names, str) else sorted(names)


@contextmanager
def _caller(impl: Any, isolate: bool, timeout: float | None) -> Iterator[tuple[Caller, Any]]:
    """Yield the function that runs a job, in this process or in one of its own; and the capabilities of `impl`, if any.

    An adapter says by an attribute what it can be asked for.
    """
    if isolate:
        from gta_ref.verify.isolate import Worker

        with Worker(impl, timeout) as worker:
            yield worker.run, worker.capabilities
        return
    impl = load(impl) if isinstance(impl, str) else impl
    to_function(impl)  # checks it
    yield lambda job: attempt(impl, job), getattr(impl, "capabilities", None)


def run_case(
    impl: Any,
    vector: Vector,
    library: str = "numpy",
    steady: bool = True,
    no_gradients: Collection[str] = (),
    repeats: int | None = None,
    promised: Collection[str] = (),
) -> CaseResult:
    """Run one case in this process; with `steady`, run it twice or `repeats` times and require equal results.

    `no_gradients` are the abilities that `impl` lacks for the gradients; if there are any, only the forward is checked.
    `promised` are arrays that must be given besides those that the case requires.
    """
    repeats = (2 if steady else 1) if repeats is None else repeats
    return _run_case(lambda job: attempt(impl, job), vector, library, steady, no_gradients, repeats, promised)


def _run_case(
    call: Caller,
    vector: Vector,
    library: str,
    steady: bool,
    no_gradients: Collection[str],
    repeats: int,
    promised: Collection[str],
) -> CaseResult:
    checked = [key for key in vector.expected if not no_gradients or key not in vector.gradients]
    job = Job(
        inputs_for(vector, no_gradients),
        vector.settings,
        library,
        repeats,
        steady,
        not no_gradients,
        frozenset(checked),
    )
    began = time.perf_counter()
    outcome = call(job)
    seconds = time.perf_counter() - began
    if outcome.status is not None:
        result = CaseResult(
            vector.case.name, vector.dtype, outcome.status, outcome.text, where=outcome.where, traceback=outcome.trace
        )
        return replace(result, seconds=seconds)
    why = not_declared(no_gradients) if no_gradients else outcome.no_backward
    if why is not None:
        checked = [key for key in checked if key not in vector.gradients]
    wanted = [key for key in vector.expected if key in checked and (key in vector.required or key in promised)]
    results = [judge(vector, {k: x for k, x in given.items() if k in checked}, wanted) for given in outcome.runs]
    result = next((one for one in results if one.status != "pass"), results[0])
    if result.status == "missing" and outcome.unknown:
        result = replace(result, text=f"{result.text}; unknown: {', '.join(outcome.unknown[:8])}")
    result = replace(result, seconds=seconds, withheld=tuple(key for key in result.withheld if key in checked))
    if why is None:
        return result
    left = tuple(name for name in vector.required if name in vector.gradients)
    text = f"{result.text}; {len(left)} gradients not checked" if result.status == "pass" else result.text
    return replace(result, text=text, unchecked=left, why_unchecked=why)


def judge(vector: Vector, given: Mapping[str, np.ndarray], wanted: Collection[str] | None = None) -> CaseResult:
    """Compare the given arrays with a vector and turn the findings into the result of the case."""
    findings = compare(vector, given, wanted)
    worst = max((f.ratio for f in findings if f.kind == "ok"), default=0.0)
    bad = next((f for f in findings if f.kind not in ("ok", "missing")), None)
    name, dtype = vector.case.name, vector.dtype
    there = {finding.name for finding in findings}
    withheld = tuple(key for key in vector.expected if key not in there and key not in given)
    quality = {finding.name: finding.quality for finding in findings if finding.quality is not None}
    if bad is not None:
        known = explanations(vector, given, findings)
        text = bad.text if known.why_not is None else f"{bad.text}; {known.why_not}"
        return CaseResult(
            name, dtype, "fail", text, stage=bad.name, kind=bad.kind, index=bad.index, ratio=bad.ratio,
            cause=known.cause, tried=known.tried, findings=findings, withheld=withheld, quality=quality,
        )  # fmt: skip
    missing = [f for f in findings if f.kind == "missing"]
    if missing:
        text = f"not given: {', '.join(f.name for f in missing)}"
        return CaseResult(
            name, dtype, "missing", text, stage=missing[0].name, kind="missing", findings=findings, withheld=withheld,
            quality=quality,
        )  # fmt: skip
    text = f"{worst:.2f} of its budget"
    return CaseResult(name, dtype, "pass", text, ratio=worst, findings=findings, withheld=withheld, quality=quality)


__all__ = ["Implementation", "inputs_for", "judge", "promises", "run_case", "verify"]
