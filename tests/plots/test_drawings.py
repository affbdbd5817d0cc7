"""The drawings that need no measurement: the files in docs/images are what the command makes."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from gta_ref.plots import drawings

IMAGES = Path(__file__).parents[2] / "docs" / "images"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    command = [sys.executable, "-m", "gta_ref.plots", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [Path(line).stem for line in printed.splitlines()] == list(drawings.DRAWINGS)
    return folder


def content(path):
    """The texts of an SVG, its shapes without their numbers, and these numbers.

    Another version of matplotlib may write the same drawing with other white space, styles or last digits.
    """
    elements = list(ElementTree.parse(path).iter())
    texts = ["".join(e.itertext()).strip() for e in elements if e.tag.endswith("}text")]
    shapes = " ".join(" ".join(e.get("d", "").split()) for e in elements if e.tag.endswith("}path"))
    return texts, NUMBER.sub("", shapes), np.array(NUMBER.findall(shapes), float)


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_the_file_in_docs_is_what_the_command_makes(name, made):
    texts, shapes, numbers = content(IMAGES / f"{name}.svg")
    now = content(made / f"{name}.svg")
    assert now[0] == texts
    assert now[1] == shapes, "make it again: python -m gta_ref.plots"
    np.testing.assert_allclose(now[2], numbers, atol=0.02, err_msg="make it again: python -m gta_ref.plots")


def test_the_files_are_the_same_every_time(made, tmp_path):
    again = drawings.write(tmp_path)
    assert all(path.read_bytes() == (made / path.name).read_bytes() for path in again)


def test_a_file_has_no_date_and_needs_no_other_file(made):
    for path in made.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "dc:date" not in text
        assert not re.search(r"""(?:href|src)=["'](?!#|data:)""", text)


def test_the_picture_of_the_heads_is_small_and_follows_the_page(made):
    text = (made / "who-reads-what.svg").read_text(encoding="utf-8")
    assert len(text) < 40_000
    assert "@media (prefers-color-scheme: dark)" in text
    assert "<path" in text
    assert "fill: #ffffff" not in text  # it has no background
    width = re.search(r'<svg [^>]*width="([\d.]+)pt"', text)
    assert float(width[1]) * 96 / 72 == 800  # pixels
    for words in ("attention maps", "output heads", "1 latent, 128 wide", "192", "2,560"):
        assert f">{words}</text>" in text


def test_every_drawing_is_shown():
    root = IMAGES.parents[1]
    pages = "".join(p.read_text(encoding="utf-8") for p in [root / "README.md", *sorted((root / "docs").glob("*.md"))])
    assert [name for name in drawings.DRAWINGS if f"images/{name}.svg" not in pages] == []
