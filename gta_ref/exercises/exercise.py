"""An exercise whose answer is a function of arrays, and how a function is checked against it.

A trial is one call with arrays that the notebook does not show; the library computes the expected result. A mistake is
a known wrong answer, written as a function of the same arguments. If a student's results are those of a mistake, the
student is shown the mistake's hint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gta_ref.exercises import causes, comparing
from gta_ref.exercises.apart import Student
from gta_ref.exercises.causes import Case, as_tuple, widen
from gta_ref.exercises.comparing import Expected
from gta_ref.exercises.student import called_with, not_callable
from gta_ref.exercises.trial import Memory, Mistake, Trial
from gta_ref.exercises.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is a function of arrays.

    Attributes
    ----------
    name : str
        Name of the exercise, such as "ex03".
    function : str
        The function's name in the notebook.
    parameters : str
        The names of the function's parameters, such as "q, k, visible".
    results : mapping of str to str
        Name of each returned array and its shape in letters; several are returned as a tuple.
    trials : function
        Returns the hidden calls, the simplest first.
    truth : function
        The library's answer to the same arguments.
    mistakes : sequence of Mistake
        Known wrong answers, the most likely first.
    allowed : sequence of str
        Modules of the library that the student's function may call.
    roundings : function, optional
        How many roundings each result may have gathered, as a number of the result's own units, or a tuple of them,
        from arguments in float64: the tolerance is that many machine epsilons
        (:mod:`gta_ref.exercises.roundings`). Whole numbers have none.
    memory : function, optional
        Returns a call whose memory is limited.
    probes : function, optional
        Returns calls that are made last. They tell right numbers that are computed in a way that is not asked for.
    draw : function, optional
        Draws the first wrong array, from (got, expected), as a Figure; by default three heat maps are drawn.
    """

    name: str
    function: str
    parameters: str
    results: Mapping[str, str]
    trials: Callable[[], Sequence[Trial]]
    truth: Callable[..., Any]
    mistakes: Sequence[Mistake] = ()
    allowed: Sequence[str] = ()
    roundings: Callable[..., float | tuple[float, ...]] | None = None
    memory: Callable[[], Memory] | None = None
    probes: Callable[[], Sequence[Trial]] | None = None
    draw: Callable[[np.ndarray, np.ndarray], Figure] | None = None

    def examine(self, function: Any) -> Verdict:
        """Check a function, and stop at the first thing that is wrong."""
        problem = not_callable(self.function, self.parameters, function)
        if problem:
            return Verdict(self.name, False, problem)
        with Student(function, self.function, self.parameters, self.allowed) as student:
            return self._examine(student)

    def _examine(self, student: Student) -> Verdict:
        trials = list(self.trials())
        verdict = self._try_all(student, trials)
        if verdict is not None:
            return verdict
        note = ""
        if self.memory is not None:
            problem, note = self._measure(student, self.memory())
            if problem:
                return Verdict(self.name, False, problem)
        probes = list(self.probes()) if self.probes is not None else []
        verdict = self._try_all(student, probes)
        if verdict is not None:
            return verdict
        return Verdict(self.name, True, f"All {len(trials) + len(probes)} hidden cases agree.{note}")

    def _try_all(self, student: Student, trials: Sequence[Trial]) -> Verdict | None:
        """The verdict on the first trial that is wrong; None if none is."""
        right: list[Case] = []
        for number, trial in enumerate(trials):
            case, problem, draw = self._try(student, trial)
            if problem:
                if case is not None and case.wrong:
                    cause = self._cause(student, case, right, trials[number + 1 :])
                    problem = cause or problem
                return Verdict(self.name, False, f"{problem}\nCase: {trial.what}.{self._shapes(problem, trial)}", draw)
            assert case is not None
            right.append(case)
        return None

    def _try(self, student: Student, trial: Trial) -> tuple[Case | None, str | None, Draw | None]:
        """What the function returns for a trial, what is wrong with it, and its picture."""
        expected = self.expected(trial.arguments)
        outcome = student.call(trial.arguments)
        if outcome.problem:
            return None, outcome.problem, None
        if outcome.answer is None:
            shapes = comparing.shapes_of(expected)
            text = f"{called_with(self.function)} returns None; expected {shapes}. Is `return` missing?"
            return None, text, None
        got, problem = comparing.arrays_of(outcome.answer, expected, self.function)
        if not got:
            return None, problem, None
        case = Case(trial.arguments, expected, got)
        if problem or not case.wrong:
            return case, problem or comparing.first_wrong_dtype(got, expected), None
        wrong = case.wrong[0]
        found, one = comparing.difference(wrong, got[wrong], expected[wrong]), expected[wrong]
        odd = np.isfinite(one.value) & ~np.isfinite(got[wrong])
        reason = f" {trial.nan}" if trial.nan and odd.any() else ""
        return case, f"{found}{reason}", self._picture(wrong, got[wrong], one)

    def _cause(self, student: Student, case: Case, right: Sequence[Case], after: Sequence[Trial]) -> str | None:
        """The known mistake that explains a wrong case, in words; None without one."""
        found = causes.candidates(self.mistakes, case, right)
        if not found:
            return None
        others = [self._try(student, trial)[0] for trial in after]
        mistake = causes.best(found, case, [one for one in others if one is not None])
        return f"Your result, {case.wrong[0]}, equals what comes out when {mistake.hint}." if mistake else None

    def expected(self, arguments: tuple[Any, ...]) -> dict[str, Expected]:
        """The truth in float64, and how far off a right answer may be."""
        arguments64 = tuple(map(widen, arguments))
        wide, own = as_tuple(self.truth(*arguments64)), as_tuple(self.truth(*arguments))
        counts = self.roundings(*arguments64) if self.roundings is not None else (0.0,) * len(own)
        counted = counts if isinstance(counts, tuple) else (counts,)
        tolerances = [comparing.rounded(count, x.dtype) for count, x in zip(counted, own, strict=True)]
        return {
            name: Expected(value, tolerance, mine.dtype, letters)
            for (name, letters), value, tolerance, mine in zip(self.results.items(), wide, tolerances, own, strict=True)
        }

    def _measure(self, student: Student, memory: Memory) -> tuple[str | None, str]:
        """What is wrong if the function holds more memory than it may, and a note if not all memory was counted."""
        case = f"\nCase: {memory.trial.what}."
        held = []
        for _ in range(2):  # the first call may allocate what is needed only once, such as a library's threads
            outcome = student.call(memory.trial.arguments, measure=True)
            if outcome.problem:
                return outcome.problem + case, ""
            held.append(outcome.held or 0)
            if held[-1] <= memory.limit:
                note = "" if outcome.everything else " Of its memory, only NumPy's arrays could be counted here."
                return None, note
        used, limit = min(held) / 2**20, memory.limit / 2**20
        return (
            f"The values are right, but {called_with(self.function)} holds up to {used:.0f} MiB at a time, where "
            f"{limit:.0f} MiB are enough: {memory.hint}{case}",
            "",
        )

    def _shapes(self, problem: str, trial: Trial) -> str:
        """The shapes of a call's arrays, to follow a message that is about shapes or an error."""
        if "has shape" not in problem and "returns None" not in problem and "\n" not in problem:
            return ""
        names = [name.strip() for name in self.parameters.split(",")]
        shapes = [
            f"{name} {x.shape}" for name, x in zip(names, trial.arguments, strict=True) if isinstance(x, np.ndarray)
        ]
        return f"\nCalled with {', '.join(shapes)}." if shapes else ""

    def _picture(self, name: str, got: np.ndarray, expected: Expected) -> Draw | None:
        if self.draw is not None:
            draw = self.draw
            return lambda: draw(got, expected.value)
        if got.ndim < 2 or min(got.shape[-2:]) < 2:
            return None

        def heat_maps() -> Figure:
            from gta_ref.exercises import pictures

            return pictures.difference(name, expected.letters, got, expected.value, comparing.worst(got, expected))

        return heat_maps
