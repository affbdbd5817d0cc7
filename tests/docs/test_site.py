"""The parts of the site: the checker finds faults, formulas and docstrings come out right, and no module is missing.

`make docs` builds and checks the site itself. If Sphinx is installed, a small site with the same settings is built
here.
"""

import json
import pkgutil
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import pytest

import gta_ref
from tests.docs.parts import DOCS, ROOT, load, needs_sphinx

check_site = load(DOCS / "check_site.py")

RIGHT = """<!doctype html><html><head><link rel="stylesheet" href="site.css"><link rel="canonical" href="https://x.org/">
</head><body><h1 id="top">T</h1><p><span class="math"><math><mi>x</mi></math></span> <code>\\frac</code>
<a href="#top">up</a> <a href="other.html#place">on</a> <a href="https://arxiv.org/abs/1">out</a>
<img src="a.png" alt="a curve"></p><pre>\\frac{1}{2}</pre></body></html>"""


def site(folder, page):
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / "other.html").write_text('<p id="place">', encoding="utf-8")
    (folder / "site.css").write_text("p { background: url(a.png) }", encoding="utf-8")
    (folder / "a.png").write_bytes(b"")
    return folder


def test_a_right_site_has_no_faults(tmp_path):
    found, counts = check_site.faults(site(tmp_path, RIGHT))
    assert found == []
    assert counts == {"pages": 2, "links": 4, "formulas": 1}


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ('"other.html#place"', '"another.html"', "link to nothing: another.html"),
        ('"other.html#place"', '"other.html#here"', "link to a place that is not there: other.html#here"),
        ('"#top"', '"#bottom"', "link to a place that is not there: #bottom"),
        ('src="a.png"', 'src="b.png"', "link to nothing: b.png"),
        ('src="a.png"', 'src="https://x.org/a.png"', "needs another host: https://x.org/a.png"),
        ('href="site.css"', 'href="//x.org/a.css"', "needs another host: //x.org/a.css"),
        ("<p>", '<script src="https://x.org/mathjax.js"></script><p>', "needs another host: https://x.org/mathjax.js"),
        ("<math><mi>x</mi></math>", "x", "a formula without <math> in it"),
        ("up</a>", "$$x$$</a>", "raw TeX: '$$x$$'"),
        ("<p>", "<p>\\frac{1}{2}", "raw TeX: '\\\\frac{1}{2}'"),
        ("<p>", '<p><span class="problematic">?</span>', "Sphinx or the browser reports an error there"),
        ("<mi>", "<merror>a</merror><mi>", "Sphinx or the browser reports an error there"),
        (' alt="a curve"', "", "an image without an alternative text: 'a.png'"),
        ('alt="a curve"', 'alt=" "', "an image without an alternative text: 'a.png'"),
        ('alt="a curve"', 'alt="curve"', "an image without an alternative text: 'a.png'"),
        ('alt="a curve"', 'alt="output of 3f9a0c21b7de45"', "an image without an alternative text: 'a.png'"),
        ('alt="a curve"', 'alt="../_images/a.png"', "an image without an alternative text: 'a.png'"),
    ],
)
def test_a_fault_is_found(old, new, fault, tmp_path):
    page = RIGHT.replace(old, new, 1)
    assert page != RIGHT
    (found,) = check_site.faults(site(tmp_path, page))[0]
    assert fault in found
    assert found.startswith("index.html: ")


def test_a_style_sheet_that_needs_another_host_is_found(tmp_path):
    site(tmp_path, RIGHT)
    (tmp_path / "site.css").write_text("@font-face { src: url('https://x.org/a.woff2') }", encoding="utf-8")
    assert check_site.faults(tmp_path)[0] == ["site.css: needs another host: https://x.org/a.woff2"]


def test_the_checker_as_a_command(tmp_path):
    def run(folder):
        command = [sys.executable, str(DOCS / "check_site.py"), str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    empty = run(tmp_path)
    assert empty.returncode == 2
    assert "no *.html there" in empty.stderr
    right = run(site(tmp_path, RIGHT))
    assert (right.returncode, right.stdout) == (0, "2 pages, 4 links, 1 formulas: 0 faults\n")
    assert run(site(tmp_path, RIGHT.replace("#top", "#x"))).returncode == 1


def test_every_module_is_in_the_reference():
    modules, shown = set(), []
    for page in (DOCS / "api").glob("*.rst"):
        text = page.read_text(encoding="utf-8")
        modules |= set(re.findall(r"^\.\. automodule:: (\S+)", text, flags=re.MULTILINE))
        for package, options in re.findall(r"^\.\. modules:: (\S+)\n((?:   .*\n)*)", text, flags=re.MULTILINE):
            only, exclude = (re.findall(rf":{name}: (.*)", options) for name in ("only", "exclude"))
            shown.append((package, " ".join(only or ["*"]).split(), " ".join(exclude).split()))

    def is_shown(name):
        package, _, last = name.rpartition(".")
        return name in modules or any(
            package == shown_package and any(fnmatch(last, pattern) for pattern in only) and last not in exclude
            for shown_package, only, exclude in shown
        )

    # the three Configs are shown on the pages of what they configure, the command on the page of commands
    elsewhere = {f"gta_ref.{name}" for name in ("cli", "lm.config", "mechanisms.gta_config", "mechanisms.mla_config")}
    names = {info.name for info in pkgutil.walk_packages(gta_ref.__path__, "gta_ref.")}
    # the other commands are on that page, too; an exercise's checks would give its answer away
    names = {name for name in names if not name.startswith(("gta_ref.commands", "gta_ref.exercises."))} - elsewhere
    names = {name for name in names if not name.endswith(".__main__")}
    assert [name for name in sorted(names) if not is_shown(name)] == []


@needs_sphinx
@pytest.mark.parametrize(
    "tex",
    [r"A_m = \mathrm{softmax}(\frac{Q K^\top}{\sqrt{d_h}})", r"\begin{align} a &= b \end{align}", r"a = b \tag{7}"],
)
def test_a_formula_becomes_mathml(tex):
    mathml = load(DOCS / "_ext" / "mathml.py").to_mathml(tex, block=True)
    assert mathml.startswith('<math display="block">')
    assert "\\" not in mathml
    assert "&=" not in mathml
    assert "(1)" not in mathml


@needs_sphinx
@pytest.mark.parametrize("tex", [r"\nocommand{x}", r"\frac{a", r"\begin{aligned} a"])
def test_a_wrong_formula_is_named(tex):
    with pytest.raises(ValueError, match="formula"):
        load(DOCS / "_ext" / "mathml.py").to_mathml(tex, block=False)


@needs_sphinx
def test_docstrings_are_shown_as_typed():
    as_typed = load(DOCS / "_ext" / "modules.py").as_typed
    text = [
        "y = x W for d_ and |P|, ``d_``:",
        "",
        "    y = |x|_2",
        "",
        "    and d_",
        "",
        "Next.",
        "",
        "- item",
        "",
        "      deep",
    ]
    assert as_typed(text) == [
        r"y = x W for d\_ and \|P\|, ``d_``:", "", "::", "", "    y = |x|_2", "", "    and d_", "", "Next.", "", "- item",
        "", "      deep",
    ]  # fmt: skip
    marked = ["So::", "", "    a_"]
    assert as_typed(marked) == marked


@pytest.mark.parametrize(
    "text",
    [
        "1,218", "0.375", "1.5×", "2.01 ×", "70 %", "−0.004", "+0.057", "22,692 (23,578)", "1.17 (1.17–1.20)",
        "1.370 ± 0.006", "[−0.056, +0.074]", "64 + 128 = 192", "5 × 64", "3.3 GB/s", "12 ms", "4e-12", "0–2",
    ],
)  # fmt: skip
@needs_sphinx
def test_a_cell_of_figures_is_found(text):
    assert load(DOCS / "_ext" / "tables.py").is_figure(text)


@pytest.mark.parametrize("text", ["", "never", "GTA-1B", "B 1, N 2048", "2 n_h d_h", "×", "– MHA", "4 H²", "10 maps"])
@needs_sphinx
def test_a_cell_of_words_is_not(text):
    assert not load(DOCS / "_ext" / "tables.py").is_figure(text)


# a PNG of one white pixel
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTjTpAAAAABJRU5ErkJggg=="
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}},
    "cells": [
        {"id": "a", "cell_type": "markdown", "metadata": {}, "source": "# N\n\n[up](../docs/index.md), $\\sigma(x)$"},
        {
            "id": "b",
            "cell_type": "code",
            "metadata": {},
            "execution_count": 1,
            "source": "show()",
            "outputs": [
                {
                    "output_type": "execute_result",
                    "execution_count": 1,
                    "metadata": {},
                    "data": {
                        "text/plain": "x",
                        "text/html": '<link rel="stylesheet"\nhref="https://x.org/font-awesome.css"><div class="animation">'
                        "<script>play()</script></div>",
                    },
                }
            ],
        },
        {
            "id": "c",
            "cell_type": "code",
            "metadata": {},
            "execution_count": 2,
            "source": "plots_cache.family(found)",
            "outputs": [{"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL}}],
        },
        {"id": "d", "cell_type": "markdown", "metadata": {}, "source": "Look at the curve: it is flat. Why?"},
        {
            "id": "e",
            "cell_type": "code",
            "metadata": {},
            "execution_count": 3,
            "source": "ax.plot(x)",
            "outputs": [{"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL[:-4] + "AAA="}}],
        },
    ],
}


@needs_sphinx
def test_a_small_site(tmp_path):
    """Settings, extensions and checker together, on a formula, a module and a notebook with an animation."""
    source, built = tmp_path / "docs", tmp_path / "html"
    (source / "notebooks").mkdir(parents=True)
    (source / "notebooks" / "01_n.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    for name in ("_ext", "_static", "_templates"):
        shutil.copytree(DOCS / name, source / name)
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text(
        "# T\n\n$$\na\n$$ (one)\n\n$$b \\tag{7}$$\n\n{eq}`one`\n\n```{toctree}\nm\n```\n```{notebooks}\n```\n"
        "\n| of | ms | from |\n| --- | --- | --- |\n| a | 1.5 | 1,024 |\n| b | 20 | never |\n| c | 3 | 7 |\n"
    )
    (source / "m.rst").write_text("M\n=\n\n.. modules:: gta_ref.ops\n   :only: softmax\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    found, counts = check_site.faults(built)
    assert found == []
    assert counts["formulas"] == 3
    first = (built / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'class="eqno">\((.)\)', first) == ["1", "7"]
    page = (built / "notebooks" / "01_n.html").read_text(encoding="utf-8")
    assert "play()" in page
    assert "font-awesome" not in page
    assert re.findall(r'<img alt="([^"]*)"', page) == [
        "The cache, attention operations and parameters of several attention layers, one bar per layer.",
        "Look at the curve: it is flat.",
    ]
    cells = re.findall(r"<t[hd]([^>]*)><p>([^<]*)", first)
    assert [text for _, text in cells] == ["of", "ms", "from", "a", "1.5", "1,024", "b", "20", "never", "c", "3", "7"]
    assert ["numeric" in attributes for attributes, _ in cells] == [False, True, True] * 4
    reference = (built / "m.html").read_text(encoding="utf-8")
    assert 'id="gta_ref.ops.softmax.softmax_backward"' in reference
    assert "Cotangent of lse" in reference
    assert (built / "_static" / "math.ttf").stat().st_size > 100_000
    assert not (built / "_static" / "mathjax").exists()
