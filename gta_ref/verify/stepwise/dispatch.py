"""The whole second implementation: it chooses the steps of a case by its level and mechanism."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from gta_ref.verify.stepwise.attention import Arrays, AttentionSteps, variant
from gta_ref.verify.stepwise.headwise import HeadwiseSteps
from gta_ref.verify.stepwise.lm import LAYERS, LmSteps

# by level, or by mechanism for the level "layer"
STEPS: dict[str, type[AttentionSteps]] = {"attention": AttentionSteps, **LAYERS, "lm": LmSteps}
HEADWISE = tuple(name for name, steps in LAYERS.items() if steps is HeadwiseSteps)


def family(settings: Mapping[str, Any]) -> str:
    """The key of a case in STEPS: its level, or its mechanism if its level is "layer"."""
    return str(settings["mechanism"] if settings["level"] == "layer" else settings["level"])


class Stepwise:
    """An implementation to be called with the arrays and settings of a case; it returns all named arrays of the case.

    Parameters
    ----------
    steps : mapping of str to function, optional
        Steps that replace those of the class that computes the case. A step that the class does not have is ignored.
    families : collection of str, optional
        The keys of STEPS whose steps are replaced; a mechanism stands for its layers in a language model too. Default:
        all.
    """

    def __init__(
        self, steps: Mapping[str, Callable[..., Any]] | None = None, families: Collection[str] | None = None
    ) -> None:
        self.steps = dict(steps or {})
        self.families = frozenset(STEPS if families is None else families)

    def __call__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Arrays:
        """Compute one case in float64 and return all its named arrays.

        Raises
        ------
        NotImplementedError
            If there are no steps for the level or mechanism of the case.
        """
        if family(settings) not in STEPS:
            raise NotImplementedError(f"no steps for {family(settings)}")
        made = variant(STEPS[family(settings)], self.steps if family(settings) in self.families else {})()
        made.given, made.settings = arrays, settings
        if isinstance(made, LmSteps):
            made.in_layers = self.steps if settings["mechanism"] in self.families else {}
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return made.case()
