"""All exercises by name, and ``check``."""

from __future__ import annotations

from typing import Any

from gta_ref.errors import check_choice
from gta_ref.exercises import backward, cache, cuda, heads, layer, maps, merge, steps, tiles, values
from gta_ref.exercises.verdict import Verdict

MODULES = (heads, maps, values, cache, steps, backward, merge, tiles, cuda, layer)
CATALOGUE: dict[str, Any] = {exercise.name: exercise for module in MODULES for exercise in module.EXERCISES}


def check(name: str, function: Any) -> Verdict:
    """Check the answer to an exercise.

    Parameters
    ----------
    name : str
        Name of the exercise, such as "ex03".
    function : callable
        The function itself, not its result.

    Returns
    -------
    Verdict
        A notebook displays it; elsewhere, ``print`` it. It is true if all hidden cases agree; otherwise it names the
        first thing that is wrong.

    Raises
    ------
    ValueError
        If there is no exercise of this name.
    """
    check_choice("exercise", name, tuple(CATALOGUE))
    verdict: Verdict = CATALOGUE[name].examine(function)
    return verdict
