"""Exercise 13: the whole layer, forward and backward, against the verification kit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gta_ref.exercises.blocking import blocked
from gta_ref.exercises.student import not_callable, sentence
from gta_ref.exercises.verdict import Verdict
from gta_ref.verify.cases import find
from gta_ref.verify.run import run_case
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
        for case, dtype, what in CASES:
            problem = self._try(function, case, dtype)
            if problem:
                return Verdict(self.name, False, f"{problem}\nCase: {what} (layer/{case}, {dtype}).")
        return Verdict(self.name, True, f"All {len(CASES)} cases of the kit agree, forward and backward.")

    def _try(self, function: Any, case: str, dtype: str) -> str | None:
        errors: list[str] = []

        def guarded(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
            """The student's function, run with the library blocked; its errors are kept."""
            with warnings.catch_warnings(), blocked(ALLOWED) as called:
                warnings.simplefilter("ignore")
                try:
                    named = function(arrays, settings)
                except Exception as error:
                    if not called:
                        errors.append(sentence(error, function))
                    named = None
                if called:
                    errors.insert(0, f"This exercise asks you to write it yourself: {called[0]} was called.")
            if named is None and not errors:
                errors.append(
                    f"{self.function}(…) returns None; expected a dict of named arrays. Is the return missing?"
                )
            if errors:
                raise RuntimeError(errors[0])
            return named

        result = run_case(guarded, make(find(f"layer/{case}").name, dtype), steady=False)
        if errors:
            return errors[0]
        if result.status == "pass":
            return None
        if result.status == "missing":
            missing = ", ".join(f.name for f in result.findings if f.kind == "missing")
            return f"What you return so far is right. Still missing: {missing}."
        cause = f" The kit recognises: {result.cause}." if result.cause else ""
        text = result.text if result.stage else f"It {result.text}"  # "writes into its input x"
        return f"{text}.{cause}"


EXERCISES = (LayerExercise(),)
