"""Goals for ``gta-ref bench core``: figures that a run is meant to reach. They are read from a file and judged here.

A file of goals is a JSON list with one entry per goal::

    {"case": "forward, N 1024", "figure": "of_ceiling", "least": 0.65}

``case`` is the name of a case of the benchmark. Two figures belong to the whole run: their case is "threads" or
"memory". ``figure`` is one of FIGURES. The bound is ``least``, or ``most`` for a figure that should be small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gta_ref.errors import as_positive_float, check_choice, check_names

Part = dict[str, Any]  # one case of a run, or what the run found about threads or memory


@dataclass(frozen=True)
class Goal:
    """One figure of one case and its bound; exactly one of `least` and `most` is a number."""

    case: str
    figure: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Figure:
    """A figure that a goal may ask for.

    Attributes
    ----------
    words : str
        As the table of goals has it.
    unit : {"%", "×"}
    value : callable
        Reads the figure from a part of a run; None if the run did not measure it.
    whole_run : {None, "threads", "memory"}
        The part of the run that has the figure. None: a case has it.
    """

    words: str
    unit: str
    value: Callable[[Part], float | None]
    whole_run: str | None = None


def _share(case: Part) -> float | None:
    share: float | None = case["contestants"]["numba"].get("of_ceiling")
    return share


def _fastest(prefix: str) -> Callable[[Part], float | None]:
    """The time of the fastest contestant whose name begins with `prefix`, over numba's time; a wrong one is ignored."""

    def value(case: Part) -> float | None:
        right = {name: one for name, one in case["contestants"].items() if not one["wrong"]}
        return min((one["times_numba"] for name, one in right.items() if name.startswith(prefix)), default=None)

    return value


def _on_matrix_unit(case: Part) -> float | None:
    return _fastest("torch")(case) if case["unit"] == "amx" else None


def _gain(threads: Part) -> float:
    return float(threads["forward"] / threads["fma"])


def _workspace(memory: Part) -> float:
    return float((memory["growth"] - memory["inputs"] - memory["outputs"]) / memory["inputs"])


FIGURES = {
    "of_ceiling": Figure("numba's share of the ceiling", "%", _share),
    "times_numba of torch": Figure("PyTorch's best time ÷ numba's", "×", _fastest("torch")),
    "times_numba of torch, on a matrix unit": Figure(
        "PyTorch's best time ÷ numba's on a matrix unit", "×", _on_matrix_unit
    ),
    "times_numba of reference": Figure("the reference's time ÷ numba's", "×", _fastest("reference")),
    "forward over fma": Figure("speed-up of the forward ÷ speed-up of multiply–adds", "%", _gain, "threads"),
    "workspace over inputs": Figure("memory besides inputs and outputs ÷ inputs", "×", _workspace, "memory"),
}


def read(path: str | os.PathLike[str], cases: Collection[str]) -> list[Goal]:
    """Read a file of goals.

    Parameters
    ----------
    path : str or path
    cases : collection of str
        The names of all cases of the benchmark.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not JSON, or an entry has an unknown case, figure or key, or not exactly one bound.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}; expected a list of goals")
    return [_goal(f"{path}: goal {i}", entry, cases) for i, entry in enumerate(entries, 1)]


def _goal(where: str, entry: Any, cases: Collection[str]) -> Goal:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is a {type(entry).__name__}; expected an object with case, figure and a bound")
    bound = "most" if "most" in entry else "least"
    check_names(where, entry, ("case", "figure", bound))
    check_choice(f"{where}: figure", entry["figure"], FIGURES)
    part = FIGURES[entry["figure"]].whole_run
    check_choice(f"{where}: case", entry["case"], cases if part is None else (part,))
    return Goal(entry["case"], entry["figure"], **{bound: as_positive_float(f"{where}: {bound}", entry[bound])})


def judge(found: dict[str, Any], goals: Collection[Goal]) -> list[dict[str, Any]]:
    """Compare a run with goals. A goal is left out if the run did not measure its figure.

    Parameters
    ----------
    found : dict
        What :func:`gta_ref.bench.core.run` returns.
    goals : collection of Goal

    Returns
    -------
    verdicts : list of dict
        case, figure, ``least`` or ``most``, ``got`` (a number) and ``reached`` (a bool).
    """
    parts = {case["name"]: case for case in found["cases"]} | {name: found[name] for name in ("threads", "memory")}
    verdicts = []
    for goal in goals:
        part = parts.get(goal.case)
        got = None if part is None else FIGURES[goal.figure].value(part)
        if got is None:
            continue
        verdict: dict[str, Any] = {"case": goal.case, "figure": goal.figure}
        if goal.least is not None:
            verdict |= {"least": goal.least, "got": got, "reached": got >= goal.least}
        else:
            verdict |= {"most": goal.most, "got": got, "reached": goal.most is not None and got <= goal.most}
        verdicts.append(verdict)
    return verdicts
