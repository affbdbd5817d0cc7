"""A wheel holds the course: written and run from it outside the clone. The source distribution holds everything.

`make course-check` runs all notebooks and exercises from a wheel that is installed in an environment of its own.
"""

import csv
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# what git ignores
IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "_build", "__pycache__", ".*_cache", ".ipynb_checkpoints", ".hypothesis"
)  # fmt: skip
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"
# runs a notebook's cells as a program, without IPython and its lines such as %matplotlib inline
NOTEBOOK = """
import json, sys, types
try:
    import IPython.display
except ImportError:
    whole, shown = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    whole.version_info, sys.modules["IPython"] = (9, 0, 0), whole  # matplotlib asks for the version
    sys.modules["IPython.display"] = shown
    shown.display = shown.Markdown = shown.HTML = lambda *_: None
import gta_ref
print(gta_ref.__file__)
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(line for line in cell["source"] if not line.startswith("%")), globals())
"""


def build(kind, tree, out):
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", BUILD, kind, out], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree") / "clone"
    shutil.copytree(ROOT, folder, ignore=IGNORED)
    shutil.rmtree(folder / "docs" / "notebooks", ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def sdist(tree):
    there = names(tree)
    packed = build("sdist", tree, tree.parent / "sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(tree.parent, filter="data")
    folder = tree.parent / packed.name.removesuffix(".tar.gz")
    return folder, there


@pytest.fixture(scope="module")
def site(sdist):
    """The folder of an unpacked wheel, which was built from the source distribution."""
    wheel = build("wheel", sdist[0], sdist[0].parent / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def run(site, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(site), "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-P", *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_source_distribution_has_every_file(sdist):
    folder, there = sdist
    assert there - names(folder) == set()


def test_wheels_from_the_tree_and_from_the_source_distribution_are_the_same(tree, site):
    (wheel,) = site.parent.glob("*.whl")
    other = build("wheel", tree, tree.parent / "other")
    assert members(other) == members(wheel)
    assert not any(name.startswith(("gta_cuda/results", "tests", "docs")) for name in members(wheel))


def test_the_course_is_written_and_runs_from_the_wheel(site, tmp_path):
    out = tmp_path / "course"
    run(site, tmp_path, "-m", "gta_ref.cli", "course", out, "--solutions")
    notebooks = [
        path for path in (out / "notebooks").glob("*.ipynb") if 'path(\\"docs/studies' in path.read_text("utf-8")
    ]
    assert notebooks
    printed = run(site, out / "notebooks", "-c", NOTEBOOK, notebooks[0])
    assert printed.startswith(str(site)), printed

    shutil.copytree(out / "notebooks/exercises/solutions", tmp_path / "class/solutions")
    shutil.copytree(
        out / "notebooks/exercises", tmp_path / "class/starters", ignore=shutil.ignore_patterns("solutions")
    )
    run(site, tmp_path, "-m", "gta_ref.cli", "grade", "class", "--csv", "grades.csv", "--exercises", "ex02,ex07")
    with (tmp_path / "grades.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["student"], row["exercise"], row["passed"]) for row in rows] == [
        ("solutions", "ex02", "True"), ("solutions", "ex07", "True"),
        ("starters", "ex02", "False"), ("starters", "ex07", "False"),
    ]  # fmt: skip
    assert all("not written yet" in row["hint"] for row in rows[2:])
