"""Find the known mistake that explains a student's wrong numbers.

Numbers of one case may agree with a mistake by chance: if keys and values are equally wide, half of all bytes may be
"no values", or "2 bytes where there are 4". So a mistake is named only if it gives every result of the case that is
wrong, and gives the right numbers in the cases that the student has right. Among several, it is the one that explains
most cases.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.exercises import comparing
from gta_ref.exercises.comparing import Expected
from gta_ref.exercises.trial import Mistake

Named = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A trial with what the student's function returned for it.

    Attributes
    ----------
    arguments : tuple
    expected : mapping of str to Expected
    got : mapping of str to array
    """

    arguments: tuple[Any, ...]
    expected: Mapping[str, Expected]
    got: Named

    @property
    def wrong(self) -> list[str]:
        """Names of the results that are wrong."""
        return [name for name, x in self.expected.items() if not comparing.agree(self.got[name], x.value, x.tolerance)]


def candidates(mistakes: Sequence[Mistake], case: Case, before: Sequence[Case]) -> list[Mistake]:
    """The mistakes that give the wrong results of a case, and right ones in the cases before, which are right."""
    found = [mistake for mistake in mistakes if _gives(mistake, case, case.wrong)]
    return [mistake for mistake in found if not any(_contradicts(mistake, one, case.wrong) for one in before)]


def best(mistakes: Sequence[Mistake], case: Case, others: Sequence[Case]) -> Mistake | None:
    """Of these mistakes the one that fits best and contradicts none of the other cases; None without one.

    One that also gives the results of the case that the student has right is preferred, then the one that explains
    most of the other wrong cases, then the first.
    """
    wrong = [one for one in others if one.wrong]
    right = [one for one in others if not one.wrong]
    left = [mistake for mistake in mistakes if not any(_contradicts(mistake, one, case.wrong) for one in right)]

    def fit(mistake: Mistake) -> tuple[bool, int]:
        return _gives(mistake, case, list(case.expected)), sum(_gives(mistake, one, one.wrong) for one in wrong)

    return max(left, key=fit, default=None)


def _gives(mistake: Mistake, case: Case, names: Sequence[str]) -> bool:
    """Whether the mistake gives the student's results of these names."""
    return any(
        all(comparing.agree(case.got[name], numbers[name], case.expected[name].tolerance) for name in names)
        for numbers in _numbers(mistake, case)
    )


def _contradicts(mistake: Mistake, case: Case, names: Sequence[str]) -> bool:
    """Whether the mistake applies to a case that the student has right, and gives wrong numbers."""
    return bool(_numbers(mistake, case)) and not _gives(mistake, case, names)


def _numbers(mistake: Mistake, case: Case) -> list[dict[str, np.ndarray]]:
    """The mistake's results, in both precisions, since what overflows in one may not in the other."""
    found = []
    for given in (case.arguments, tuple(map(widen, case.arguments))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found.append(dict(zip(case.expected, as_tuple(mistake.answer(*given)), strict=True)))
            except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError):
                continue
    return found


def as_tuple(answer: Any) -> tuple[np.ndarray, ...]:
    """An answer of one array or several, as a tuple of arrays."""
    return tuple(np.asarray(x) for x in (answer if isinstance(answer, tuple) else (answer,)))


def widen(x: Any) -> Any:
    """An array of floats in float64; anything else as it is."""
    return converter("float64")(x)


def converter(dtype: str) -> Callable[[Any], Any]:
    """A function that converts arrays of floats to `dtype`, and nothing else."""
    return lambda x: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
