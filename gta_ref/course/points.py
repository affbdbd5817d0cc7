"""What an exercise is worth: its level, from 1 to 4; exercise 13 as much as all the others together.

Exercises 1 to 12 are passed or not. Exercise 13 counts in parts: half of its points are for the forward, in proportion
to the cases in which the layer's output is right, and half for the backward, in proportion to the gradients that are
right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gta_ref.exercises.apart import Student
from gta_ref.exercises.catalogue import CATALOGUE
from gta_ref.exercises.layer import ALLOWED, CASES
from gta_ref.verify.cases import find
from gta_ref.verify.run import run_case
from gta_ref.verify.vectors import make

# as the exercises' first lines say
LEVELS = {
    "ex01": 1, "ex02": 1, "ex03": 2, "ex04": 2, "ex05": 2, "ex06": 1,
    "ex07": 3, "ex08": 2, "ex09": 3, "ex10": 2, "ex11": 3, "ex12": 4, "ex13": 4,
}  # fmt: skip
LAYER = "ex13"
POINTS = {**LEVELS, LAYER: sum(level for name, level in LEVELS.items() if name != LAYER)}


def share_of_layer(function: Callable[..., Any]) -> float:
    """The part of exercise 13 that a layer gets right, from 0 to 1: half for the forward, half for the backward."""
    layer = CATALOGUE[LAYER]
    outputs, gradients = [], []
    with Student(function, layer.function, layer.parameters, ALLOWED) as student:
        for case, dtype, _ in CASES:
            vector = make(find(f"layer/{case}").name, dtype)
            findings = run_case(_answered(student), vector, steady=False).findings
            right = {finding.name for finding in findings if finding.kind == "ok"}
            outputs.append("out" in right)
            gradients += [name in right for name in vector.required if name in vector.gradients]
    return (sum(outputs) / len(outputs) + sum(gradients) / len(gradients)) / 2


def _answered(student: Student) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    def answer(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        outcome = student.call((arrays, settings))
        if outcome.problem is not None:
            raise RuntimeError(outcome.problem)
        return outcome.answer

    return answer
