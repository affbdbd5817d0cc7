"""Every solution passes; every starter fails and says what is missing, and is otherwise equal to its solution."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest

from gta_ref import exercises
from gta_ref.exercises.catalogue import CATALOGUE
from gta_ref.exercises.starters import starter

FOLDER = Path(__file__).parents[2] / "notebooks" / "exercises"
MASTERS = sorted((FOLDER / "solutions").glob("*.py"))
STARTERS = sorted(FOLDER.glob("*.py"))


def name_of(path):
    return path.stem


def run(path, monkeypatch):
    """Execute a notebook as a script; return its namespace, its printed output and the verdicts of its checks."""
    if name_of(path).startswith("ex12") and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: pip install --group cuda")
    verdicts, check = [], exercises.check

    def recorded(name, function):
        verdicts.append(check(name, function))
        return verdicts[-1]

    monkeypatch.setattr(exercises, "check", recorded)
    names, printed = {"__name__": "notebook"}, io.StringIO()
    with contextlib.redirect_stdout(printed), np.printoptions():
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names, printed.getvalue(), verdicts


def test_each_exercise_has_one_starter_and_one_solution():
    assert [p.name for p in STARTERS] == [p.name for p in MASTERS]
    assert [p.name[:4] for p in MASTERS] == sorted(CATALOGUE)
    assert len(MASTERS) >= 10


@pytest.mark.parametrize("path", MASTERS, ids=name_of)
def test_starter_is_its_solution_without_it(path):
    command = "python -m gta_ref.exercises.starters notebooks/exercises"
    text = (FOLDER / path.name).read_text(encoding="utf-8")
    assert text == starter(path.read_text(encoding="utf-8")), f"write the starters again: {command}"
    assert "SOLUTION" not in text
    assert "[raw]" not in text


@pytest.mark.parametrize("path", MASTERS, ids=name_of)
def test_solution_passes_and_prints_what_the_statement_shows(path, monkeypatch):
    names, printed, verdicts = run(path, monkeypatch)
    exercise = CATALOGUE[path.name[:4]]
    assert [v.exercise for v in verdicts] == [exercise.name]
    assert verdicts[0].passed, verdicts[0]
    shown = re.search(r"# It should print\n#\n# ```text\n(.*?)# ```", path.read_text(encoding="utf-8"), re.S)[1]
    assert [line.removeprefix("# ") for line in shown.splitlines()] == printed.splitlines()
    assert callable(names[exercise.function])


@pytest.mark.parametrize("path", MASTERS, ids=name_of)
def test_otter_test_is_for_this_exercise(path):
    """otter-grader finds a question with the name of the exercise, whose test calls the check of this exercise."""
    text = path.read_text(encoding="utf-8")
    name, function = path.name[:4], CATALOGUE[path.name[:4]].function
    assert text.count(f"# name: {name}\n") == 2  # once for the assignment and once for the question
    assert (
        f'def test_{name}({function}):\n    from gta_ref.exercises import check\n\n    verdict = check("{name}"' in text
    )
    marks = re.findall(r"^# # ((?:BEGIN|END) \w+)$", text, re.M)
    kinds = ["QUESTION", "SOLUTION", "TESTS"]
    assert marks == ["BEGIN QUESTION", *(f"{end} {k}" for k in kinds[1:] for end in ("BEGIN", "END")), "END QUESTION"]


def test_the_page_lists_every_exercise_with_its_level_and_time():
    page = (FOLDER.parents[1] / "docs" / "exercises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (ex\d+) \| `(\w+)` \| [^|]+ \| (\d) \| ([^|]+) \|$", page, re.M)
    assert [name for name, *_ in rows] == sorted(CATALOGUE)
    for _, notebook, level, time in rows:
        assert f"# {time} · level {level} of 4 · " in (FOLDER / f"{notebook}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", STARTERS, ids=name_of)
def test_starter_fails_with_its_hint(path, monkeypatch):
    _, _, verdicts = run(path, monkeypatch)
    assert [v.passed for v in verdicts] == [False]
    exercise = CATALOGUE[path.name[:4]]
    assert verdicts[0].hint == f"{exercise.function} is not written yet: its body is still `...`."


def test_starter_without_a_solution_is_refused():
    with pytest.raises(ValueError, match="no solution"):
        starter("# %%\nx = 1\n")
