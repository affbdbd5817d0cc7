"""gta-ref course writes everything that the notebooks lead to, and never touches a file that is there."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from gta_ref import cli, course
from gta_ref.course import place
from gta_ref.course.contents import SOLUTIONS, contents
from gta_ref.course.write import write

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words):
    return CliRunner().invoke(cli.app, ["course", *map(str, words)], prog_name="gta-ref")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the course, without solutions; not to be changed."""
    folder = tmp_path_factory.mktemp("course") / "new"
    assert set(write(folder)) == {path for path in folder.rglob("*") if path.is_file()}
    return folder


def test_every_notebook_and_exercise_is_written_as_it_is_in_the_tree(written):
    there = files(written)
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        name = path.relative_to(ROOT).as_posix()
        if ".ipynb_checkpoints" not in name:
            assert (name in there) == ("solutions" not in name), name
            assert there.get(name, path.read_bytes()) == path.read_bytes()
    for folder in ("images", "studies", "examples"):
        assert {name for name in there if name.startswith(f"docs/{folder}/")} >= {
            path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / folder).iterdir() if path.is_file()
        }


def test_solutions_only_on_request(written, tmp_path):
    without = files(written)
    assert not any("solutions" in name for name in without)
    shutil.copytree(written, tmp_path / "c")
    assert "everything is there already" in run(tmp_path / "c").output
    assert run(tmp_path / "c", "--solutions").exit_code == 0  # the files that are the same stay
    both = files(tmp_path / "c")
    assert {name for name in both if name not in without} == {
        f"{SOLUTIONS}/{path.name}" for path in (ROOT / SOLUTIONS).glob("*.ipynb")
    }
    assert {name: both[name] for name in without} == without


@pytest.mark.parametrize("solutions", [False, True])
def test_a_changed_file_is_kept_and_nothing_is_written(tmp_path, solutions):
    mine = tmp_path / "notebooks/exercises/ex03_shared_map.ipynb"
    mine.parent.mkdir(parents=True)
    mine.write_text("my answer")
    result = run(tmp_path, *(["--solutions"] if solutions else []))
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "nothing was written" in result.output
    assert "ex03_shared_map.ipynb" in result.output
    assert files(tmp_path) == {"notebooks/exercises/ex03_shared_map.ipynb": b"my answer"}


def test_links_and_folders_in_the_way_are_kept(tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "nowhere")
    (tmp_path / "docs/notation.md").mkdir(parents=True)
    output = run(tmp_path).output
    assert f"there: {tmp_path}/README.md, {tmp_path}/docs/notation.md; " in output
    assert not files(tmp_path)


def test_a_file_instead_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "c").write_text("x")
    for target in (tmp_path / "c", tmp_path / "c" / "d"):
        result = run(target)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert (tmp_path / "c").read_text() == "x"
    (tmp_path / "d").mkdir()
    (tmp_path / "d/docs").write_text("x")
    assert f"there: {tmp_path}/d/docs; " in run(tmp_path / "d").output
    assert files(tmp_path / "d") == {"docs": b"x"}


def test_every_relative_link_of_a_notebook_leads_to_a_file(written):
    broken = []
    for path in (written / "notebooks").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        links = [unquote(link) for link in LINK.findall(text.replace("\n", " ")) if "://" not in link]
        broken += [f"{path.name}: {link}" for link in links if not (path.parent / link).exists()]
    assert broken == []


def test_a_path_of_the_course():
    assert course.path("docs/studies").is_dir()
    with pytest.raises(ValueError, match="must be a file or folder of the course"):
        course.path("docs/nothing.md")


def test_without_its_files_there_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(place, "TREE", tmp_path)
    with pytest.raises(ValueError, match="files are missing"):
        place.root()


def test_what_a_run_leaves_behind_is_no_part_of_the_course(tmp_path):
    for name in ("docs/examples/a.py", "docs/examples/__pycache__/a.pyc", "notebooks/.ipynb_checkpoints/a.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.as_posix() for path in contents(tmp_path)] == ["docs/examples/a.py"]
