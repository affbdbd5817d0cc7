"""What the README says works: its example runs, its links lead somewhere. Its commands: tests/docs/test_commands.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


def test_every_folder_of_the_map_exists():
    table = README[README.index("## Where things are") :]
    for path in re.findall(r"^\| `([\w/.]+)`", table, flags=re.MULTILINE):
        assert (ROOT / path).exists(), path
