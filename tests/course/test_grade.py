"""gta-ref grade: whatever an answer does, its student gets a grade and a reason, and the others get theirs."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.course import apart, grading
from gta_ref.course.points import LEVELS, POINTS
from gta_ref.course.submissions import exercise_of, submissions
from gta_ref.exercises.catalogue import CATALOGUE

EXERCISES = Path(__file__).parents[2] / "notebooks" / "exercises"
SOLUTION = EXERCISES / "solutions" / "ex01_heads_read_maps.ipynb"
STARTER = EXERCISES / "ex01_heads_read_maps.ipynb"
RIGHT = """
import numpy as np
def heads_from_maps(maps, values):
    return np.repeat(maps, values.shape[1] // maps.shape[1], axis=1) @ values
"""


def grade(text, folder, name="ex01.py", exercise="ex01", seconds=60.0):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return apart.grade(exercise, path, seconds, grading.MEBIBYTES)


def notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells], "nbformat": 4})


def test_a_solution_passes_and_a_starter_does_not():
    assert apart.grade("ex01", SOLUTION, 60.0, grading.MEBIBYTES).passed
    found = apart.grade("ex01", STARTER, 60.0, grading.MEBIBYTES)
    assert (found.passed, found.share) == (False, 0.0)
    assert "not written yet" in found.hint


@pytest.mark.parametrize(
    "text, hint",
    [
        ("x = 1\n", "ex01.py defines no heads_from_maps."),
        ("import nothing_like_this\n", "code cell 1 ends with ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("import sys\nsys.exit(0)\n", "code cell 1 ends with SystemExit: 0"),
        ("import os\nos._exit(0)\n", "The answer ended the Python process (exit status 0)."),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "ended the Python process (SIGSEGV)."),
        ("input()\n", "code cell 1 ends with EOFError"),
        ("x = bytearray(9 * 2**30)\n", "code cell 1 ends with MemoryError"),
        ("def f(:\n", "code cell 1 ends with SyntaxError"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(text, hint, tmp_path):
    found = grade(text, tmp_path)
    assert not found.passed
    assert hint in found.hint


@pytest.mark.parametrize(
    "rest", ["while True: pass\n", "import os\nif os.fork() == 0:\n    while True: pass\nwhile True: pass\n"]
)
def test_an_endless_loop_ends(rest, tmp_path):
    assert grade(RIGHT + rest, tmp_path, seconds=1.5).hint == "The answer did not finish within 1.5 s."


@pytest.mark.parametrize(
    "text, hint",
    [
        ("{", "not a complete notebook"),
        ('{"cells": [{"source": []}]}', "not a complete notebook"),
        ("[" * 100_000, "not a complete notebook"),
    ],
)
def test_a_broken_notebook_is_said(text, hint, tmp_path):
    assert hint in grade(text, tmp_path, name="ex01.ipynb").hint


def test_other_cells_may_fail_print_and_have_magics(tmp_path):
    text = notebook(
        "%matplotlib inline\nprint('ready')\n", "1 / 0", ["%%time\n", "import numpy as np\n"], RIGHT, "!pip install x",
        'check("ex01", heads_from_maps)', "import sys; sys.exit()",
    )  # fmt: skip
    assert grade(text, tmp_path, name="ex01.ipynb").passed


def test_the_grader_itself_runs_no_code_of_a_student(tmp_path):
    (tmp_path / "class/anna").mkdir(parents=True)
    (tmp_path / "class/anna/all.py").write_text(
        f"import os\nopen({str(tmp_path / 'who')!r}, 'w').write(str(os.getppid()))\n{RIGHT}"
    )
    (row,) = grading.grade(tmp_path / "class", ["ex01"])
    assert row.passed
    assert (tmp_path / "who").read_text() == str(os.getpid())


def test_a_layer_whose_backward_is_wrong_gets_a_part_of_the_points(tmp_path):
    text = (EXERCISES / "solutions" / "ex13_whole_layer.py").read_text(encoding="utf-8")
    text += "\n\n# %%\nwhole = gta_layer\n\n\ndef gta_layer(arrays, settings):\n"
    one = "    named = whole(arrays, settings)\n    return {**named, 'd_x': 2 * named['d_x']}\n"
    found = grade(text + one, tmp_path, "ex13.py", "ex13")
    assert not found.passed
    assert 0.8 < found.share < 1


def test_the_files_of_a_class(tmp_path):
    (tmp_path / "anna" / "sub").mkdir(parents=True)
    for name in (
        "anna/Ex03 (1).ipynb",
        "anna/sub/ex12_cuda_tile.py",
        "anna/notes.txt",
        "anna/.ex01.py",
        "ben.py",
        ".x.py",
    ):
        (tmp_path / name).write_text("def heads_from_maps(): pass\n" if name.endswith("py") else "{}")
    (tmp_path / "anna" / "ex01.py").symlink_to(SOLUTION)
    anna, ben = submissions(tmp_path)
    assert [path.name for path in anna.files] == ["Ex03 (1).ipynb", "ex12_cuda_tile.py"]
    assert [[p.name for p in one.answers("ex01")] for one in (anna, ben)] == [[], ["ben.py"]]
    assert [p.name for p in anna.answers("ex03")] == ["Ex03 (1).ipynb"]
    names = ("ex1", "EX_01_mine", "anna-ex-12", "index2", "ex99", "ex130", "text 3")
    assert [exercise_of(Path(f"{name}.py")) for name in names] == ["ex01", "ex01", "ex12", None, None, None, None]


def test_the_command_writes_a_table_for_a_spreadsheet(tmp_path):
    for student, text in (("=anna", RIGHT), ("ben", "x = 1\n"), ("carl", None)):
        (tmp_path / "class" / student).mkdir(parents=True)
        if text is not None:
            (tmp_path / "class" / student / "ex01.py").write_text(text)
    (tmp_path / "class/=anna/ex01 first try.py").write_text("x = 1\n")
    words = [
        "grade",
        tmp_path / "class",
        "--csv",
        tmp_path / "g.csv",
        "--json",
        tmp_path / "g.json",
        "--exercises",
        "ex01",
    ]
    result = CliRunner().invoke(cli.app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert re.search(r"=anna +1 +1 +1\n", result.stdout)
    with (tmp_path / "g.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["student", "exercise", "passed", "points", "of", "hint"]
    assert [tuple(row.values())[:5] for row in rows] == [
        ("'=anna", "ex01", "True", "1", "1"), ("ben", "ex01", "False", "0", "1"), ("carl", "ex01", "False", "0", "1"),
    ]  # fmt: skip
    assert "the best of 2 files: ex01.py" in rows[0]["hint"]
    assert rows[2]["hint"] == "No answer."
    assert json.loads((tmp_path / "g.json").read_text())["totals"]["=anna"] == {"points": 1.0, "of": 1}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--exercises", "ex77"], "exercise='ex77' must be one of"),
        (["--seconds", "0"], "seconds=0.0 must be"),
        (["--jobs", "0"], "jobs=0 must be"),
        ([], "no students; expected"),
    ],
)
def test_wrong_usage_is_one_line(words, message, tmp_path):
    (tmp_path / "class").mkdir()
    result = CliRunner().invoke(cli.app, ["grade", str(tmp_path / "class"), "--csv", str(tmp_path / "g.csv"), *words])
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert message in result.output


def test_a_process_that_cannot_start_is_the_graders_error(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_environment", lambda: {"PYTHONHOME": str(tmp_path)})
    with pytest.raises(ValueError, match="does not start"):
        grade(RIGHT, tmp_path)


def test_points_follow_the_levels_that_the_exercises_state():
    for file in sorted(EXERCISES.glob("ex*.py")):
        assert f" · level {LEVELS[file.name[:4]]} of 4 · " in file.read_text(encoding="utf-8")
    assert list(POINTS) == sorted(CATALOGUE)
    assert POINTS["ex13"] == sum(POINTS.values()) - POINTS["ex13"]
