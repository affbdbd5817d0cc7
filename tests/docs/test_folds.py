"""Folded sections: the heading is the button, anchors lead into them, and paper has them unfolded."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MARK = "<!-- folded -->"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_sphinx = pytest.mark.skipif(find_spec("myst_parser") is None, reason="Sphinx and MyST are not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PAGE = f"""# Page

[inside](#inner), [the section](#outer)

## Outer

{MARK}

Text of *outer*.

### Inner

Text of inner.

## Plain

Text of plain.

### Last

{MARK}

Text of last.
"""
CONF = """
import sys
sys.path.insert(0, EXT)
extensions = ["myst_parser", "folds"]
myst_heading_anchors = 4
html_theme = "basic"
html_static_path = [STATIC]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.md").write_text(PAGE, encoding="utf-8")
    paths = f"EXT, STATIC = {str(DOCS / '_ext')!r}, {str(DOCS / '_static')!r}\n"
    (folder / "conf.py").write_text(paths + CONF, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", str(folder), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html" / "index.html"


@needs_sphinx
def test_only_marked_sections_are_folded(built):
    html = re.sub(r"\s+", " ", built.read_text(encoding="utf-8"))
    folded = r'<section id="(\w+)"> <details class="folded"><summary><h(\d)>'
    assert re.findall(folded, html) == [("outer", "2"), ("last", "3")]
    assert html.count("</details>") == 2
    outer = html.partition('<section id="outer">')[2].partition("</details>")[0]
    assert outer.partition("</summary>")[2].count("<p>Text of") == 2  # with the section inside it
    assert "Text of plain" not in outer
    assert MARK not in html


@needs_sphinx
def test_headings_stay_in_the_table_of_contents_and_in_the_index_of_the_search(built):
    html = built.read_text(encoding="utf-8")
    assert all(f'href="#{name}"' in html for name in ("outer", "inner", "plain", "last"))
    assert '"inner"' in (built.parent / "searchindex.js").read_text(encoding="utf-8")


def browser(*options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_sphinx
@needs_browser
@pytest.mark.parametrize("anchor, opened", [("", 0), ("#outer", 1), ("#inner", 1), ("#plain", 0), ("#last", 1)])
def test_a_link_unfolds_where_it_leads(built, tmp_path, anchor, opened):
    page = browser(f"--user-data-dir={tmp_path}", "--dump-dom", built.as_uri() + anchor)
    assert page.count('<details class="folded" open="">') == opened


@needs_sphinx
@needs_browser
def test_everything_is_printed(built, tmp_path):
    text = shutil.which("pdftotext")
    if text is None:
        pytest.skip("pdftotext is not installed")
    browser(f"--user-data-dir={tmp_path}", f"--print-to-pdf={tmp_path / 'page.pdf'}", built.as_uri())
    words = subprocess.run([text, tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True).stdout
    assert all(f"Text of {name}" in words for name in ("outer", "inner", "plain", "last"))


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_the_mark_stands_after_a_heading(path):
    """Elsewhere it would do nothing."""
    text = path.read_text(encoding="utf-8")
    before = re.findall(rf"([^\n]*)\n\n{re.escape(MARK)}\n\n", text)
    assert len(before) == text.splitlines().count(MARK)
    assert all(line.startswith("##") for line in before)


@pytest.mark.parametrize("name", ["kernels", "e2e", "studies"])
def test_a_long_page_begins_with_what_was_found_and_a_table(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    lead = text.split("\n\n")[1]
    assert len(re.findall(r"[.;](?:\s|$)", lead)) <= 5
    assert re.search(r"\d\.\d", lead)
    start, _, folded = text.partition(MARK)
    assert "\n| --- |" in start
    assert "](images/" in start
    assert len(start) < 0.4 * len(text)
    assert folded.count(MARK) >= 4
