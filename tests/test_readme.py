"""The README's example runs and its links lead somewhere; tests/docs/test_commands.py runs its commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gta_ref import cli
from gta_ref.verify.mutants.table import MUTANTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_runs_and_decodes_as_it_says():
    (code,) = [text for language, text in BLOCKS if language == "python"]
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    error, _, cache = printed.partition(" ")
    assert float(error) < 1e-5
    assert "12,288 of 12,288 bytes" in cache  # 16 tokens of 192 float32


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith(("http:", "https:", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_output_of_the_tour_is_what_the_tour_prints(tmp_path):
    """Line by line, with the digits of a rounding error left open."""

    def opened(text):
        return [re.sub(r"\d\.\de-\d+(?= \(|$)", "…", line.rstrip()) for line in text.splitlines()]

    (shown,) = [text for language, text in BLOCKS if language == "text"]
    printed = CliRunner().invoke(cli.app, ["tour", "--out", str(tmp_path)], env={"COLUMNS": "100"}).output
    assert set(opened(shown)) - {"..."} <= set(opened(printed))


def test_every_folder_of_the_map_exists():
    table = README[README.index("## Where things are") :]
    for path in re.findall(r"^\| `([\w/.]+)`", table, flags=re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_numbers_that_are_written_out_are_true():
    names = {13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen"}
    exercises = len(list((ROOT / "notebooks" / "exercises" / "solutions").glob("ex*.py")))
    assert names[exercises] in README
    assert f"{names[exercises]} exercises" in (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "docs" / "verify.md"):
        for number in re.findall(r"(\d+) (?:wrong implementations|known mistakes)", page.read_text(encoding="utf-8")):
            assert int(number) == len(MUTANTS), page
