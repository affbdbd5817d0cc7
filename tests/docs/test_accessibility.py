"""The site for everyone: what axe-core finds is reported, and what the extensions and the style do leaves it nothing.

`make docs` checks the whole site. Here are pages with one fault each, and a small site with everything that the pages
of the site have: wide code, tables and formulas, figures of cells, an animation, boxes, code in several languages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.parts import DOCS, ROOT, load, needs_sphinx

AXE = next(iter(sorted((ROOT / "build").glob("axe-core-*/package/axe.min.js"))), Path("axe.min.js"))


accessibility = load(DOCS / "check_accessibility.py")
LACKING = accessibility.missing(AXE)
needs_axe = pytest.mark.skipif(bool(LACKING), reason=f"not there: {', '.join(LACKING)}; make docs fetches axe-core")

RIGHT = """<!doctype html><html lang="en"><head><title>T</title><meta name="viewport" content="width=device-width">
<style>body { background: #fff; color: #000; } td { color: #333; }
@media (prefers-color-scheme: dark) { body { background: #000; color: #fff; } td { color: #ccc; } }
pre { overflow: auto; }</style></head>
<body><main><h1>T</h1><h2>Part</h2><p>text <img alt="a curve" src="data:,"></p><details><summary>more</summary>
<table><tr><td></td><th>size</th></tr><tr><td>small</td><td>large</td></tr></table></details>
<p><input type="range" aria-label="frame"> <button aria-label="play">▶</button></p>
<pre>short</pre></main></body></html>"""
FAULTS = {
    "image-alt": ('alt="a curve"', "", "img"),
    "label": (' aria-label="frame"', "", "input"),
    "button-name": (' aria-label="play">▶', ">", "button"),
    "empty-table-header": ("<td></td>", "<th></th>", "th"),
    "heading-order": ("h2>", "h4>", "h4"),
    "scrollable-region-focusable": ("short", "long " * 100, "pre"),
    "landmark-one-main": ("main>", "div>", "html"),
    # in a part that is folded, in one view each
    "color-contrast": ("td { color: #333; }", "td { color: #999; }", "td"),
    "color-contrast dark": ("td { color: #ccc; }", "td { color: #333; }", "td"),
    "color-contrast narrow": ("pre {", "@media (width < 400px) { p { color: #555; } } pre {", "p"),
}
VIEWS_OF = {
    "color-contrast": ["1280 px light"],
    "color-contrast dark": ["390 px dark"],
    "color-contrast narrow": ["390 px dark"],
}


@cache
def answers(folder):
    """Run the check as a command on a site with a right page and one page for each fault."""
    (folder / "index.html").write_text(RIGHT, encoding="utf-8")
    for i, (name, (old, new, _)) in enumerate(FAULTS.items()):
        page = RIGHT.replace(old, new)
        assert page != RIGHT, name
        (folder / f"page{i}.html").write_text(page, encoding="utf-8")
    command = [sys.executable, str(DOCS / "check_accessibility.py"), str(folder), str(AXE)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    return answers(tmp_path_factory.mktemp("faults"))


@needs_axe
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_page_rule_and_place(name, answer):
    assert answer.returncode == 1, answer.stderr
    i = list(FAULTS).index(name)
    lines = [line for line in answer.stdout.splitlines() if line.startswith(f"page{i}.html (")]
    found = [line for line in lines if re.search(rf": {name.split()[0]}: [^:]*\b{FAULTS[name][2]}\b", line)]
    assert found, lines
    seen = found[0].partition("(")[2].partition(")")[0].split(", ")
    assert seen == VIEWS_OF.get(name, ["1280 px light", "390 px dark"])


@needs_axe
def test_a_right_page_has_no_finding(answer):
    assert "index.html" not in answer.stdout


def test_what_is_missing_is_said_and_nothing_fails(tmp_path):
    (tmp_path / "index.html").write_text(RIGHT, encoding="utf-8")
    command = [sys.executable, str(DOCS / "check_accessibility.py"), str(tmp_path), str(tmp_path / "axe.min.js")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": ""})
    assert done.returncode == 0
    assert (
        done.stdout == f"accessibility is not checked: node, Chromium, axe-core ({tmp_path / 'axe.min.js'}) not there\n"
    )


def test_every_page_is_chosen_but_few_sources(tmp_path):
    for name in (
        "index",
        "api/core",
        "_modules/index",
        "_downloads/ab/gta-slides",
        *(f"_modules/{i}" for i in range(30)),
    ):
        (tmp_path / f"{name}.html").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.html").write_text("", encoding="utf-8")
    chosen = accessibility.addresses(tmp_path)
    assert {"index.html", "api/core.html", "_modules/index.html", "_downloads/ab/gta-slides.html"} <= set(chosen)
    assert "_downloads/ab/gta-slides.html?view=print" in chosen
    assert 1 < sum(page.startswith("_modules/") for page in chosen) < 8
    with pytest.raises(ValueError, match=r"no \*\.html there"):
        accessibility.addresses(tmp_path / "nothing")


# a PNG of one white pixel
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTjTpAAAAABJRU5ErkJggg=="
PLAYER = (
    '<div class="animation">\n<img id="p1">\n<div class="anim-controls">\n<input id="s1" type="range" '
    'class="anim-slider"\n name="points" min="0" max="1" value="0">\n<div class="anim-buttons"><button title="Play" '
    'aria-label="Play"><i class="fa fa-play"></i></button></div></div></div>'
)
PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL}}
COLOURS = "".join(
    f"\x1b[{code}mcolour {code}\x1b[0m " for code in (31, 32, 33, 34, 35, 36, 37, "30;43", "1;32", "38;5;18")
)
CELLS = [
    ("markdown", "# Notebook\n\nThe curve falls. It is steep.", []),
    ("code", "ax.plot(x)", [PICTURE, PICTURE]),
    ("markdown", "## Play\n\nEvery tile in turn:", []),
    ("code", "HTML(player)", [{"output_type": "display_data", "metadata": {}, "data": {"text/html": PLAYER}}]),
    ("code", "plots_cache.family(found)", [PICTURE]),
    ("code", "print(x)", [{"output_type": "stream", "name": "stdout", "text": COLOURS + "\n" + "wide " * 60}]),
]
BOXES = ("note", "tip", "hint", "important", "warning", "caution", "danger", "error", "attention", "seealso")
PAGE = f"""# Page

![A ring of four, and
one step](a.png)

## Code

```python
@decorator
class A(B):  # a comment
    def f(self, x=1.5, y="text", z=None):
        return len(x) if x is not None else [{"x, " * 60}]
```

```bash
for name in *.py; do echo "$name" | sed 's/a/b/' > out; done  # comment
```

```cpp
#include <vector>
template <typename T> __global__ void f(const float* x) {{ if (x[0] > 1.0f) return; /* comment */ }}
```

```none
short
```

## Tables

| | {" | ".join(f"column{i}" for i in range(40))} |
| --- | {" | ".join("---" for i in range(40))} |
| `a` | {" | ".join("1.370 ± 0.005" for i in range(40))} |

| of | what |
| --- | --- |
| a | about 95 % of the peak, [−0.056, +0.074], and [a link](b.rst) |

## Formulas

$$ {" + ".join(f"x_{{{i}}}" for i in range(90))} $$

$$ x \\tag{{1}} $$

{{eq}}`e`, `inline code`

$$ y $$ (e)

## Boxes

{chr(10).join(f":::{{{box}}}{chr(10)}A box with `code` and [a link](b.rst).{chr(10)}:::{chr(10)}" for box in BOXES)}

:::{{admonition}} A title
A box.
:::

```{{toctree}}
b
notebooks/n
```
"""


def build(folder):
    """Build a site with the settings, the extensions and the style of docs/."""
    source, built = folder / "docs", folder / "html"
    (source / "notebooks").mkdir(parents=True)
    for name in ("_ext", "_static", "_templates"):
        shutil.copytree(DOCS / name, source / name)
    shutil.copy(DOCS / "conf.py", source)
    (source / "a.png").write_bytes(b"")
    (source / "index.md").write_text(PAGE, encoding="utf-8")
    (source / "b.rst").write_text("B\n=\n\n.. modules:: gta_ref.ops\n   :only: softmax\n", encoding="utf-8")
    cells = [
        {"id": f"c{i}", "cell_type": kind, "metadata": {}, "source": text}
        | ({"execution_count": i, "outputs": outputs} if kind == "code" else {})
        for i, (kind, text, outputs) in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}
    (source / "notebooks" / "n.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build(tmp_path_factory.mktemp("site"))


@needs_sphinx
def test_every_image_and_slider_has_a_text(site):
    page = (site / "notebooks" / "n.html").read_text(encoding="utf-8")
    assert re.findall(r'<img\b[^>]*?alt="([^"]*)"', page) == [
        "The curve falls. (Notebook) (1 of 2)",
        "The curve falls. (Notebook) (2 of 2)",
        "Every tile in turn",
        "The cache, attention operations and parameters of several attention layers, one bar per layer.",
    ]
    assert re.findall(r'<input aria-label="([^"]*)"', page) == ["Frame of: Every tile in turn"]
    assert 'alt="A ring of four, and one step"' in (site / "index.html").read_text(encoding="utf-8")


@needs_sphinx
def test_an_empty_heading_is_a_cell_and_figures_stay_in_one_piece(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    assert '<td class="head"><p></p></td>' in page
    assert not re.search(r"<th\b[^>]*>(<p></p>)?</th>", page)
    assert re.findall(r"about (.*?) of the peak, (.*?) and", page) == [
        ('<span class="nowrap">95 %</span>', '<span class="nowrap">[−0.056, +0.074],</span>')
    ]
    assert page.count('<span class="nowrap">1.370 ± 0.005</span>') == 40


@needs_axe
@needs_sphinx
def test_axe_finds_nothing_on_the_small_site(site):
    pages = accessibility.addresses(site)
    assert {"index.html", "b.html", "notebooks/n.html", "search.html", "genindex.html"} <= set(pages)
    assert accessibility.report(accessibility.findings(site, pages, AXE)) == []


@needs_axe
@needs_sphinx
def test_what_scrolls_can_be_reached_with_the_keyboard_and_has_a_name(site):
    """At 1280 px only three elements are too wide; at 390 px more are, and back at 1280 px the three again."""
    command = [
        "node",
        str(ROOT / "tests" / "docs" / "scrolling.js"),
        accessibility.browser(),
        (site / "index.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, narrow, last = json.loads(done.stdout)
    assert [(kind, role) for kind, role, _, _ in first] == [
        ("pre", "region"), ("table-wrapper", "region"), ("math-scroll", "region"),
    ]  # fmt: skip
    assert first == last
    names = [name for _, _, name, _ in narrow]
    assert len(set(names)) == len(names) > len(first)
    assert all(re.fullmatch(r"(Code|Table|Formula) \d+, scrolls sideways", name) for name in names)
    assert all(moved for *_, moved in first)
