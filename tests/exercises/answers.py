"""Tables of answers to an exercise as students write them: wrong ones with the words of their hint, and right ones."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from gta_ref import ops
from gta_ref.exercises import check
from gta_ref.exercises.catalogue import CATALOGUE

SOLUTIONS = Path(__file__).parents[2] / "notebooks" / "exercises" / "solutions"


class Answers:
    """Wrong and right answers to one exercise; a test file registers them and asks for its two tests.

    Parameters
    ----------
    exercise : str
        Name of the exercise.
    """

    def __init__(self, exercise):
        self.exercise = exercise
        self.of_wrong, self.of_right = {}, {}

    def wrong(self, *words):
        """Register a wrong answer and the words that its hint has to contain."""

        def note(function):
            self.of_wrong[function.__name__] = function, words
            return function

        return note

    def right(self, function):
        """Register a right answer."""
        self.of_right[function.__name__] = function
        return function

    def right_with(self, package):
        """Register a right answer that needs a package, if that is installed."""
        return self.right if _ready(package) else lambda function: function

    def wrong_with(self, package, *words):
        """Register a wrong answer that needs a package, if that is installed."""
        return self.wrong(*words) if _ready(package) else lambda function: function

    def wrong_ones(self):
        """Parametrize a test over the wrong answers."""
        return pytest.mark.parametrize("function, words", list(self.of_wrong.values()), ids=list(self.of_wrong))

    def right_ones(self):
        """Parametrize a test over the right answers."""
        return pytest.mark.parametrize("function", list(self.of_right.values()), ids=list(self.of_right))

    def refused(self, function, words):
        """Check a wrong answer: it is refused in these words."""
        verdict = check(self.exercise, function)
        assert not verdict.passed, verdict
        for word in words:
            assert word in verdict.hint, verdict

    def accepted(self, function):
        """Check a right answer: it passes."""
        verdict = check(self.exercise, function)
        assert verdict.passed, verdict


def solution(name):
    """The solution of an exercise, compiled from nothing but the notebook's text."""
    text = next(SOLUTIONS.glob(f"{name}_*.py")).read_text(encoding="utf-8")
    function = CATALOGUE[name].function
    source = re.search(rf"^def {function}\(.*?# END SOLUTION$", text, re.S | re.M)[0]
    names = {"np": np, **{n: getattr(ops, n) for n in ("rope_angles", "rope_forward", "rope_backward")}}
    turn = re.search(r"^def turn\(.*?\[0\]$", text, re.S | re.M)
    exec((turn[0] + "\n" if turn else "") + source, names)
    return names[function]


def softmax(s, axis=-1):
    """A plain softmax, as students write it."""
    w = np.exp(s - s.max(axis, keepdims=True))
    return w / w.sum(axis, keepdims=True)


def _ready(package):
    """Import a package, here once instead of in the process of every check; False without it."""
    return importlib.util.find_spec(package) is not None and importlib.import_module(package) is not None
