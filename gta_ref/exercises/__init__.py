"""Exercises that mark themselves: ``check("ex03", shared_map)`` names the first thing that is wrong.

The statements are notebooks (``notebooks/exercises/``). A check runs the student's function on cases that the notebook
does not show, with this library's own functions blocked, and compares its results with what the library computes.
"""

from gta_ref.exercises.catalogue import check
from gta_ref.exercises.cuda import simulate
from gta_ref.exercises.verdict import Verdict

__all__ = ["Verdict", "check", "simulate"]
