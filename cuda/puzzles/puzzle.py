"""What a puzzle consists of, and how a kernel is checked in Numba's simulator.

A puzzle is a small kernel with a gap. Its master is its solution, in which the gap is marked, so that the starter and
the solution cannot differ elsewhere. A check runs a kernel on cases that the starter does not show, and reports the
first thing that is wrong: an exception, a barrier that only some threads reach, a race, numbers, or needless reads.
"""

from __future__ import annotations

import inspect
import linecache
import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint16

from gta_cuda.intrinsics import SIMULATED, ldmatrix4
from gta_ref.exercises.cuda_memory import GlobalArray, Watch
from gta_ref.exercises.cuda_process import watching
from gta_ref.exercises.starters import SOLUTION
from gta_ref.ops.arrays import Array

# what a kernel may use by name
NAMES = {"cuda": cuda, "math": math, "float32": float32, "int32": int32, "uint16": uint16, "ldmatrix4": ldmatrix4}


@dataclass(frozen=True)
class Case:
    """One launch: arguments (the last one is the array to be written), threads per block, and what is expected.

    reads: the most elements that all threads together may read from global memory; None for any number.
    """

    what: str
    arguments: tuple[Any, ...]
    threads: int
    truth: Array
    reads: int | None = None


@dataclass(frozen=True)
class Puzzle:
    """A puzzle.

    Attributes
    ----------
    name : str
        Such as "p1".
    title : str
    kernel : function
        The solution, with ``# BEGIN SOLUTION`` and ``# END SOLUTION`` around what the starter leaves out.
    hints : sequence of str
        From a nudge to nearly the answer.
    cases : function
        Returns the cases, the simplest first.
    mistakes : sequence of (str, function)
        Known wrong answers: a sentence, and a function of a case that returns the wrong numbers.
    gap : str
        What the starter has in place of the solution; default "...". With "", it does not show the place.
    """

    name: str
    title: str
    kernel: Callable[..., Any]
    hints: Sequence[str]
    cases: Callable[[], Sequence[Case]]
    mistakes: Sequence[tuple[str, Callable[[Case], Array]]] = ()
    gap: str = "..."

    @property
    def solution_text(self) -> str:
        """The source of the solution."""
        return textwrap.dedent(inspect.getsource(self.kernel))

    @property
    def starter_text(self) -> str:
        """The source of the starter: the statement is its docstring."""
        text = SOLUTION.sub(rf"\1{self.gap}" if self.gap else "", self.solution_text)
        return text.rstrip() + "\n"

    def check(self, text: str, file: str = "<puzzle>") -> str | None:
        """What is wrong with a kernel, given as its source; None if all cases are right.

        Raises
        ------
        RuntimeError
            If Numba's simulator was not chosen.
        """
        if not SIMULATED:
            raise RuntimeError("puzzles run in Numba's simulator: set NUMBA_ENABLE_CUDASIM=1")
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        names: dict[str, Any] = dict(NAMES)
        try:
            exec(compile(text, file, "exec"), names)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        function = names.get(self.kernel.__name__)
        if not callable(function):
            return f"there is no function {self.kernel.__name__} in it"
        kernel = cuda.jit(getattr(function, "py_func", function))
        for case in self.cases():
            problem = self._run(kernel, case, file)
            if problem is not None:
                return f"{problem}\n  case: {case.what}"
        return None

    def _run(self, kernel: Any, case: Case, file: str) -> str | None:
        watch, out = Watch(), np.array(case.arguments[-1])
        given = [
            GlobalArray(str(i), x.copy(), watch) if isinstance(x, np.ndarray) else x
            for i, x in enumerate(case.arguments[:-1])
        ]
        try:
            with warnings.catch_warnings(), watching(watch, file):
                warnings.simplefilter("ignore")  # an overflow shows in the numbers
                kernel[1, case.threads](*given, GlobalArray("out", out, watch))
        except Exception as error:
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        uneven = watch.uneven(case.threads)
        if uneven is not None:
            return f"every thread has to reach every barrier, but {uneven}"
        if watch.race is not None:
            return f"a race: {watch.race}"
        if not agree(out, case.truth):
            for sentence, wrong in self.mistakes:
                if agree(out, wrong(case)):
                    return sentence
            return _difference(out, case.truth)
        if case.reads is not None and watch.reads > case.reads:
            return f"right, but {watch.reads} elements are read from global memory, where {case.reads} are enough"
        return None


def agree(got: Array, truth: Array) -> bool:
    """Whether numbers are equal, up to the rounding of float32; NaN and infinities have to be in the same places."""
    with np.errstate(invalid="ignore"):
        return bool(np.allclose(got.astype(np.float64), truth, rtol=1e-5, atol=1e-6, equal_nan=True))


def _difference(got: Array, truth: Array) -> str:
    wrong = ~np.isclose(got.astype(np.float64), truth, rtol=1e-5, atol=1e-6, equal_nan=True)
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = ", ".join(map(str, place))
    return (
        f"{int(wrong.sum())} of {wrong.size} numbers are wrong; out[{where}] is {got[place]}, expected {truth[place]}"
    )
