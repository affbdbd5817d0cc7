"""Exercise 13: the whole layer, forward and backward, against the verification kit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gta_ref.exercises.apart import Student
from gta_ref.exercises.foreign import kind
from gta_ref.exercises.student import called_with, not_callable
from gta_ref.exercises.verdict import Verdict
from gta_ref.verify.cases import find
from gta_ref.verify.compare import as_compared
from gta_ref.verify.known import close, run, tolerance
from gta_ref.verify.mutants.mutant import Mutant, wrong
from gta_ref.verify.mutants.table import MUTANTS
from gta_ref.verify.run import run_case
from gta_ref.verify.stepwise.gta import GtaSteps
from gta_ref.verify.vector import Vector
from gta_ref.verify.vectors import make

CASES = (
    ("gta-paper", "float64", "the paper's decoder"),
    ("gta-released", "float64", "the released code's decoder, with copies of Z"),
    ("gta-grouped", "float64", "several key and latent heads"),
    ("gta-no-bias", "float64", "no biases"),
    ("gta-one-token", "float64", "a sequence of one token"),
    ("gta-left-padded", "float64", "left padding: k_start"),
    ("gta-right-padded", "float64", "right padding and an empty sequence: k_stop"),
    ("gta-released", "float32", "float32"),
)
ALLOWED = ("gta_ref.ops.rope",)


def _turned_back(*names: str) -> Any:
    """The backward in which RoPE is undone only for the heads of these names."""

    def layer_backward(self: GtaSteps, s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        n = {"q": s["q"].shape[1], "k": s["k"].shape[1]}
        turned: list[str] = []

        def rotate_back(d: np.ndarray) -> np.ndarray:
            turned.append("qk"[len(turned)])  # the layer undoes q first
            assert d.shape[1] == n[turned[-1]]
            return GtaSteps.rotate_back(self, d) if turned[-1] in names else d

        self.rotate_back = rotate_back  # type: ignore[method-assign]
        return GtaSteps.layer_backward(self, s)

    return layer_backward


# mistakes that students make, besides those of implementations that the kit knows
OWN = (
    wrong("layer", "d_q_proj", "backward of RoPE missing on the queries", layer_backward=_turned_back("k")),
    wrong("layer", "d_k_proj", "backward of RoPE missing on the keys", layer_backward=_turned_back("q")),
)


@dataclass(frozen=True)
class LayerExercise:
    """The exercise whose answer is an implementation for :func:`gta_ref.verify.verify`."""

    name: str = "ex13"
    function: str = "gta_layer"
    parameters: str = "arrays, settings"

    def examine(self, function: Any) -> Verdict:
        """Run cases of the kit one by one, up to the first that fails."""
        problem = not_callable(self.function, self.parameters, function)
        if problem:
            return Verdict(self.name, False, problem)
        advice = ""
        with Student(function, self.function, self.parameters, ALLOWED) as student:
            for case, dtype, what in CASES:
                problem, note = self._try(student, make(find(f"layer/{case}").name, dtype), not advice)
                where = f"Case: {what} (layer/{case}, {dtype})."
                if problem:
                    return Verdict(self.name, False, f"{problem}\n{where}")
                advice = advice or (note and f"\nAdvice: {note} {where}")
        return Verdict(self.name, True, f"All {len(CASES)} cases of the kit agree, forward and backward.{advice}")

    def _try(self, student: Student, vector: Vector, advise: bool) -> tuple[str | None, str]:
        """What is wrong in a case, and with `advise` what differs in a stage that need not be returned."""
        outcome = student.call((vector.inputs, vector.settings))
        named = outcome.answer
        problem = outcome.problem or self._form(named)
        if problem:
            return problem, ""
        required = {name: x for name, x in named.items() if name in vector.required}
        result = run_case(lambda arrays, settings: required, vector, steady=False) if required else None
        if result is not None and result.status == "pass" and not advise:
            return None, ""
        stages = run_case(lambda arrays, settings: named, vector, steady=False)
        differs = f"{stages.text}." if stages.status not in ("pass", "missing") else ""
        if result is not None and result.status == "pass":
            note = f"{differs} This stage need not be returned; it may be defined differently here." if differs else ""
            return None, note
        if result is None or result.status == "missing":
            there = [f"Unknown: {name}." for name in named if name not in vector.expected]
            missing = ", ".join(name for name in vector.required if name not in required)
            begin = "" if differs else "What you return so far is right. " if len(there) < len(named) else ""
            return " ".join([f"{begin}Still missing: {missing}.", *filter(None, [differs]), *there]), ""
        text = f"{result.text}."
        if differs and stages.stage not in (None, result.stage):  # says more exactly where the error is
            text += f" The first stage that differs: {differs}"
        cause = _cause(vector, required)
        return f"{text} The kit recognises: {cause}." if cause else text, ""

    def _form(self, named: Any) -> str | None:
        """What is wrong with the form of what is returned."""
        if named is None:
            return f"{called_with(self.function)} returns None; expected a dict of named arrays. Is the return missing?"
        if not isinstance(named, dict):
            return f"{called_with(self.function)} returns {kind(named)}; expected a dict of named arrays."
        other = next((name for name, x in named.items() if not isinstance(x, np.ndarray | np.generic)), None)
        return None if other is None else f"{other} is {kind(named[other])}; expected a NumPy array."


def _cause(vector: Vector, given: Mapping[str, Any]) -> str | None:
    """The known mistake that gives all wrong arrays, and has right all that are right; None without one."""
    got: dict[str, np.ndarray] = {}
    for name, x in given.items():
        if not isinstance(x, np.ndarray) or x.shape != vector.expected[name].shape or x.dtype.kind not in "fiu":
            return None
        got[name] = as_compared(vector, name, x.astype(np.float64))
    wrong_names = [name for name, x in got.items() if not close(x, vector.expected[name], vector.budgets[name]).all()]
    for mutant in (*(one for one in MUTANTS if one.kind in ("attention", "layer")), *OWN):
        if wrong_names and _explains(mutant, vector, got, wrong_names):
            return mutant.cause
    return None


def _explains(mutant: Mutant, vector: Vector, got: Mapping[str, np.ndarray], wrong_names: list[str]) -> bool:
    numbers = run(mutant, vector)
    for name, x in got.items():
        if name not in numbers or numbers[name].shape != x.shape:
            return False
        allowed = tolerance(name, numbers[name], vector)
        wanted = x if name in wrong_names else vector.expected[name]
        if not close(numbers[name], wanted, allowed).all():
            return False
    return True


EXERCISES = (LayerExercise(),)
