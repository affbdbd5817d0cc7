"""docs/course.md states how long each notebook takes to read, by one rule."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WORDS, LINES = 200, 10  # per minute
LONGEST = 30


def minutes(path):
    """Minutes to read a notebook: its words, and its lines of code without blank lines and imports."""
    words = lines = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            words += len(re.findall(r"\w+", source))
        else:
            lines += sum(not re.match(r"\s*$|import |from |%", line) for line in source.splitlines())
    return round(words / WORDS + lines / LINES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_states_the_minutes(path):
    assert minutes(path) <= LONGEST
    row = re.search(rf"`{path.stem}` \|.*\| (\d+) \|", (ROOT / "docs" / "course.md").read_text(encoding="utf-8"))
    assert row, f"docs/course.md has no row for {path.stem}"
    assert int(row[1]) == minutes(path)
