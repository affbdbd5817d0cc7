"""The statements on the site, and the assignments for otter-grader and nbgrader, have every exercise once."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gta_ref.course import assignment
from gta_ref.course.points import POINTS
from gta_ref.exercises.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
STARTERS = sorted((ROOT / "notebooks" / "exercises").glob("ex*.py"))


def source(cell):
    return "".join(cell["source"])


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed: make docs")
@pytest.mark.parametrize("path", STARTERS, ids=lambda p: p.stem)
def test_a_statement_is_the_starter_without_hints_and_check(path):
    spec = importlib.util.spec_from_file_location("docs_exercises", ROOT / "docs" / "_ext" / "exercises.py")
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    title, text = extension.statement(path.read_text(encoding="utf-8"))
    assert title.startswith(f"Exercise {int(path.name[2:4])}: ")
    assert f"def {CATALOGUE[path.name[:4]].function}(" in text
    assert "It should print" in text
    assert not any(word in text for word in ("Hint 1", "check(", "Set up once", "%%", "import check"))
    assert "\n#" not in text.replace("\n    #", "")


def test_otter_gets_one_notebook_with_thirteen_questions():
    notebook = assignment.otter()
    texts = [source(cell) for cell in notebook["cells"]]
    assert sum(text.startswith("# ASSIGNMENT CONFIG") for text in texts) == 1
    questions = [text for text in texts if text.startswith("# BEGIN QUESTION")]
    assert questions == [f"# BEGIN QUESTION\nname: {name}\npoints: {points}" for name, points in POINTS.items()]
    assert sum("# BEGIN SOLUTION" in text and "def " in text for text in texts) >= 13
    assert len({cell["id"] for cell in notebook["cells"]}) == len(texts)


def test_nbgrader_gets_an_answer_and_a_check_for_each():
    for name, notebook in assignment.nbgrader().items():
        marked = {
            cell["metadata"]["nbgrader"]["grade_id"]: cell
            for cell in notebook["cells"]
            if "nbgrader" in cell["metadata"]
        }
        assert list(marked) == [f"{name}-answer", f"{name}-check"]
        answer, check = marked.values()
        assert f"def {CATALOGUE[name].function}(" in source(answer)
        assert "# END SOLUTION" in source(answer)
        assert answer["metadata"]["nbgrader"]["solution"]
        assert check["metadata"]["nbgrader"]["points"] == POINTS[name]
        assert f'check("{name}", {CATALOGUE[name].function})' in source(check)
        assert not any(cell["cell_type"] == "raw" or "def test_" in source(cell) for cell in notebook["cells"])


def test_the_program_writes_them(tmp_path):
    command = [sys.executable, "-m", "gta_ref.course.assignment"]
    for words in (("otter", tmp_path / "gta.ipynb"), ("nbgrader", tmp_path / "source" / "gta")):
        subprocess.run([*command, *words], cwd=ROOT, check=True)
    assert len(json.loads((tmp_path / "gta.ipynb").read_text())["cells"]) > 100
    assert len(list((tmp_path / "source/gta").iterdir())) == 13
    assert subprocess.run([*command, "moodle"], cwd=ROOT, capture_output=True).returncode == 2
