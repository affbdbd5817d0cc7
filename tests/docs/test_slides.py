"""The slides: every slide has notes, every question of the syllabus an answer, and the page is that of the deck."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DECK = (DOCS / "slides" / "deck.md").read_text(encoding="utf-8")
SLIDES = DECK.split("\n---\n")
PAGE = DOCS / "slides" / "gta-slides.html"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def questions():
    """The questions of the lecture's table, without a stated answer."""
    table = (DOCS / "syllabus.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+–\d+ \|.*\| ([^|]+\?)[^|?]*\|$", table, re.MULTILINE)
    return [row.partition("?")[0] + "?" for row in rows]


def words(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


@pytest.mark.parametrize("slide", SLIDES, ids=lambda slide: slide.strip().splitlines()[0].strip("# ●"))
def test_every_slide_has_notes_and_its_pictures_exist(slide):
    text, _, notes = slide.partition("\nNote:\n")
    assert len(notes.split()) > 5
    for alt, kind, name in re.findall(r"!\[([^]]*)\]\((\w+):([^)]+)\)", text):
        assert len(alt.split()) > 5
        if kind == "image":
            assert (DOCS / "images" / name).is_file()
        else:
            assert f'"{name}": ' in (DOCS / "slides" / "build.py").read_text(encoding="utf-8")
    assert text.count("](") == len(re.findall(r"!\[[^]]*\]\((?:image|figure):", text))


def test_there_are_about_25():
    assert 22 <= len(SLIDES) <= 28


@pytest.mark.parametrize("question", questions())
def test_every_question_of_the_syllabus_has_an_answer(question):
    slide = next((slide for slide in SLIDES if words(question) in words(slide)), None)
    assert slide is not None
    assert "Answer" in slide.partition("\nNote:\n")[2]


def test_the_page_is_made_from_the_deck():
    page = PAGE.read_text(encoding="utf-8")
    assert f'content="{hashlib.sha256(DECK.encode()).hexdigest()}"' in page, "run: make slides"
    assert page.count('<aside class="notes">') == len(SLIDES)
    loaded = re.findall(
        r"""<(?:link|script|img)[^>]*(?:src|href)=["']?(?!data:)([^"'> ]+)""", page.partition("<script>")[0]
    )
    assert not loaded  # nothing comes from elsewhere


@pytest.mark.skipif(NODE is None or CHROMIUM is None, reason="node or chromium is not installed, which show the slides")
def test_the_speaker_view_shows_the_notes_of_a_file():
    """Key S opens a window that follows the slides, without a server."""
    command = [NODE, str(Path(__file__).with_name("notes.js")), CHROMIUM, PAGE.as_uri()]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout)
    for notes, slide in zip(shown, SLIDES, strict=False):
        assert words(notes) == words(slide.partition("\nNote:\n")[2])
