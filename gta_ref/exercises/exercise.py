"""What an exercise consists of, and how a function is checked against it.

A trial is one call with arrays that the notebook does not show; the library computes the expected result. A mistake is
a known wrong answer, written as a function of the same arguments. If a student's result equals that of a mistake, the
student is shown the mistake's hint.
"""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gta_ref.exercises import comparing
from gta_ref.exercises.blocking import blocked
from gta_ref.exercises.comparing import Expected
from gta_ref.exercises.student import called_with, not_callable, sentence
from gta_ref.exercises.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer.

    Attributes
    ----------
    hint : str
        Completes the sentence "Your result equals what comes out when ...".
    answer : function
        Computes the wrong result from a trial's arguments. If it raises, the mistake does not apply to that trial.
    """

    hint: str
    answer: Callable[..., Any]


@dataclass(frozen=True)
class Trial:
    """One call of the student's function.

    Attributes
    ----------
    what : str
        The case in words, for the hint.
    arguments : tuple
        Passed by position; the function receives read-only copies of arrays.
    nan : str
        A sentence with the likely reason if the result has NaN or infinities that no mistake explains.
    """

    what: str
    arguments: tuple[Any, ...]
    nan: str = ""


@dataclass(frozen=True)
class Memory:
    """A call whose memory is limited.

    Attributes
    ----------
    trial : Trial
        The call.
    limit : int
        The most bytes that the function may hold at a time.
    hint : str
        Completes the message that the function holds too much: why, and what to do instead.
    """

    trial: Trial
    limit: int
    hint: str


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
    memory : function, optional
        Returns a call whose memory is limited.
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
    memory: Callable[[], Memory] | None = None
    draw: Callable[[np.ndarray, np.ndarray], Figure] | None = None

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in self.parameters.split(",")]

    def _shapes(self, arguments: tuple[Any, ...]) -> str:
        """The shapes of a call's arrays, as a line to follow an error that is about shapes."""
        shapes = [
            f"{name} {x.shape}" for name, x in zip(self._names, arguments, strict=True) if isinstance(x, np.ndarray)
        ]
        return f"\nCalled with {', '.join(shapes)}." if shapes else ""

    def examine(self, function: Any) -> Verdict:
        """Check a function, and stop at the first thing that is wrong."""
        problem = not_callable(self.function, self.parameters, function)
        if problem:
            return Verdict(self.name, False, problem)
        trials = self.trials()
        for trial in trials:
            problem, draw = self._try(function, trial)
            if problem:
                return Verdict(self.name, False, problem, draw)
        if self.memory is not None:
            problem = self._measure(function, self.memory())
            if problem:
                return Verdict(self.name, False, problem)
        return Verdict(self.name, True, f"All {len(trials)} hidden cases agree.")

    def _try(self, function: Callable[..., Any], trial: Trial) -> tuple[str | None, Callable[[], Figure] | None]:
        """What is wrong in one trial, and its picture."""
        expected = self._expected(trial.arguments)
        case = f"\nCase: {trial.what}."
        problem, answer = self._call(function, trial.arguments, expected)
        if problem:
            return problem + case + self._shapes(trial.arguments), None
        got, problem = comparing.arrays_of(answer, expected, self.function)
        if problem and not got:
            return problem + case, None
        wrong = comparing.first_wrong(got, expected)
        mistake = None if wrong is None else self._recognise(wrong, got, trial.arguments, expected)
        if wrong is not None and mistake is not None:
            picture = None if problem else self._picture(wrong, got[wrong], expected[wrong])
            return f"Your result, {wrong}, equals what comes out when {mistake}.{case}", picture
        if problem:
            return problem + case + self._shapes(trial.arguments), None
        for name, one in expected.items():
            found = comparing.difference(name, got[name], one)
            if found is not None:
                odd = np.isfinite(one.value) & ~np.isfinite(got[name])
                reason = f" {trial.nan}" if trial.nan and odd.any() else ""
                return found + reason + case, self._picture(name, got[name], one)
        for name, one in expected.items():
            problem = comparing.wrong_dtype(name, got[name], one)
            if problem:
                return problem + case, None
        return None, None

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], expected: Mapping[str, Expected]
    ) -> tuple[str | None, Any]:
        """Run the function on read-only copies with the library blocked: (what went wrong, its answer)."""
        own = tuple(_read_only(x) for x in arguments)
        answer, error = None, None
        with warnings.catch_warnings(), blocked(self.allowed) as called:
            warnings.simplefilter("ignore")  # an overflow shows in the values
            try:
                answer = function(*own)
            except Exception as raised:
                error = raised
            library = called[:]
        if library:
            return f"This exercise asks you to write it yourself: {library[0]} was called.", None
        if error is not None:
            return sentence(error, function), None
        for name, mine, original in zip(self._names, own, arguments, strict=True):
            if isinstance(original, np.ndarray) and mine.tobytes() != original.tobytes():
                hint = f"Compute into a new array: {name} belongs to the caller."
                return f"{self.function} changes its input {name}. {hint}", None
        if answer is None:
            shapes = comparing.shapes_of(expected)
            return f"{called_with(self.function)} returns None; expected {shapes}. Is `return` missing?", None
        return None, answer

    def _expected(self, arguments: tuple[Any, ...]) -> dict[str, Expected]:
        """The truth in float64, with the tolerance that follows from the library's own rounding errors."""
        wide = _tuple(self.truth(*(_widen(x) for x in arguments)))
        own = _tuple(self.truth(*arguments))
        single = own
        if all(x.dtype != np.float32 for x in own):
            single = _tuple(self.truth(*(_single(x) for x in arguments)))
        return {
            name: Expected(value, comparing.tolerance(value, low, mine.dtype), mine.dtype, letters)
            for (name, letters), value, low, mine in zip(self.results.items(), wide, single, own, strict=True)
        }

    def _recognise(
        self, wrong: str, got: Mapping[str, np.ndarray], arguments: tuple[Any, ...], expected: Mapping[str, Expected]
    ) -> str | None:
        """The hint of the first mistake that has the same numbers up to the first wrong array; None without one."""
        names = list(expected)[: list(expected).index(wrong) + 1]
        # in both precisions: what overflows in one may not overflow in the other
        variants = [arguments, tuple(_widen(x) for x in arguments)]
        for mistake in self.mistakes:
            for given in variants:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        numbers = dict(zip(expected, _tuple(mistake.answer(*given)), strict=True))
                    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError):
                        continue
                if all(comparing.agree(got[name], numbers[name], expected[name].tolerance) for name in names):
                    return mistake.hint
        return None

    def _measure(self, function: Callable[..., Any], memory: Memory) -> str | None:
        """What is wrong if the function holds more memory than it may; None if it does not."""
        own = tuple(_read_only(x) for x in memory.trial.arguments)
        running = tracemalloc.is_tracing()
        with warnings.catch_warnings(), blocked(self.allowed):
            warnings.simplefilter("ignore")
            if not running:
                tracemalloc.start()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try:
                function(*own)
                _, peak = tracemalloc.get_traced_memory()
            except Exception as error:
                return sentence(error, function)
            finally:
                if not running:
                    tracemalloc.stop()
        if peak - before <= memory.limit:
            return None
        used, limit = (peak - before) / 2**20, memory.limit / 2**20
        return (
            f"The values are right, but {called_with(self.function)} holds up to {used:.1f} MiB at a time, where "
            f"{limit:.1f} MiB are enough: {memory.hint}\nCase: {memory.trial.what}."
        )

    def _picture(self, name: str, got: np.ndarray, expected: Expected) -> Callable[[], Figure] | None:
        if self.draw is not None:
            draw = self.draw
            return lambda: draw(got, expected.value)
        if got.ndim < 2 or min(got.shape[-2:]) < 2:
            return None

        def heat_maps() -> Figure:
            from gta_ref.exercises import pictures

            return pictures.difference(name, expected.letters, got, expected.value, comparing.worst(got, expected))

        return heat_maps


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float64", factor: float = 1.0) -> np.ndarray:
    """Normal random numbers times `factor`."""
    return (factor * rng.standard_normal(shape)).astype(dtype)


def random_maps(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> np.ndarray:
    """Random maps: rows that sum to 1."""
    x = np.exp(rng.standard_normal(shape))
    return (x / x.sum(-1, keepdims=True)).astype(dtype)


def _tuple(answer: Any) -> Arrays:
    return tuple(np.asarray(x) for x in (answer if isinstance(answer, tuple) else (answer,)))


def _read_only(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return dict(x) if isinstance(x, dict) else x
    x = x.copy()
    x.flags.writeable = False
    return x


def _widen(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _single(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
