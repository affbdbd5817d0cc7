"""Make the slides: one HTML file that needs no network, with the speaker's notes, and a PDF if Chromium is installed.

python docs/slides/build.py REVEAL

REVEAL is the unpacked npm package reveal.js, which ``make slides`` fetches. gta-slides.html and gta-slides.pdf are
written beside this file. The text is deck.md: a line with three hyphens separates slides, and what follows "Note:" is
for the speaker. An image is a file of docs/images (image:NAME) or a figure of FIGURES (figure:NAME).
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "_ext")]

from mathml import to_mathml  # noqa: E402

from gta_ref.costs import hardware  # noqa: E402
from gta_ref.costs.model import Model  # noqa: E402
from gta_ref.costs.operators import operators  # noqa: E402
from gta_ref.files import atomic_path  # noqa: E402
from gta_ref.plots.cache_steps import cache_steps  # noqa: E402
from gta_ref.plots.common import save  # noqa: E402
from gta_ref.plots.roofline import roofline  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
IMAGE = re.compile(r"!\[([^\]]*)\]\((image|figure):([^)]+)\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
MODELS = {name.upper(): Model.preset(name) for name in ("gta-1b", "gqa-1b")}


def _cache_steps(*names: str) -> Figure:
    return cache_steps({name: MODELS[name].structure for name in names or MODELS})


def _roofline() -> Figure:
    sizes = {"prefill of 1024 tokens": (1, 1024, 0), "decoding step after 4096 tokens, batch 32": (32, 1, 4096)}
    passes = {
        title: {name: operators(model, *one, fused=True) for name, model in MODELS.items()}
        for title, one in sizes.items()
    }
    return roofline(passes, hardware.get("h100"))


FIGURES = {"cache_of_gqa": lambda: _cache_steps("GQA-1B"), "cache_of_both": _cache_steps, "roofline": _roofline}


def slides() -> list[tuple[str, str]]:
    """The text and the notes of every slide."""
    found = []
    for slide in (HERE / "deck.md").read_text(encoding="utf-8").split("\n---\n"):
        text, _, notes = slide.partition("\nNote:\n")
        found.append((text.strip(), notes.strip()))
    return found


def digest() -> str:
    """A mark of the deck's text, by which a test sees that the page was made from it."""
    return hashlib.sha256((HERE / "deck.md").read_bytes()).hexdigest()


def to_html(text: str) -> str:
    """One slide's text, or its notes, as HTML with formulas and figures in it."""
    kept: list[str] = []

    def keep(html: str) -> str:
        kept.append(html)
        return f"\x02{len(kept) - 1}\x03"

    text = IMAGE.sub(lambda m: keep(_image(m[1], m[2], m[3])), text)
    text = FORMULA.sub(lambda m: keep(to_mathml(m[1] or m[2], block=bool(m[1]))), text)
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = html.replace("<th></th>", "<td></td>")  # a heading without text would be announced with every cell below
    return re.sub("\x02(\\d+)\x03", lambda m: kept[int(m[1])], html)


def _image(alt: str, kind: str, name: str) -> str:
    if kind == "image":
        data = (HERE.parent / "images" / name).read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            save(FIGURES[name](), file := Path(folder, "figure.svg"))
            data = file.read_bytes()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(data).decode()}">'


def page(reveal: Path) -> str:
    """The whole deck as one page."""
    sections = []
    for text, notes in slides():
        sections.append(f'<section>\n{to_html(text)}<aside class="notes">\n{to_html(notes)}</aside>\n</section>')
    dist = reveal / "dist"
    style = (dist / "reveal.css").read_text(encoding="utf-8") + (HERE / "slides.css").read_text(encoding="utf-8")
    scripts = [(dist / name).read_text(encoding="utf-8") for name in ("reveal.js", "plugin/notes.js")]
    scripts.append("Reveal.initialize({ hash: true, width: 1280, height: 720, plugins: [RevealNotes] });")
    code = "\n".join(f"<script>{script.replace('</script', '<!/script')}</script>" for script in scripts)
    licence = escape((reveal / "LICENSE").read_text(encoding="utf-8"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>GTA: Grouped-head latenT Attention</title>
<meta name="gta-deck" content="{digest()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<!-- reveal.js:
{licence}
-->
<style>{style}</style></head>
<body tabindex="0"><main><div class="reveal"><div class="slides">
{chr(10).join(sections)}
</div></div></main>
{code}
</body></html>
"""


def pdf(html: Path, out: Path) -> bool:
    """Print the deck, one slide per page; False if there is no Chromium, or no node to drive it."""
    browser, node = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("node")
    if browser is None or node is None:
        return False
    with atomic_path(out) as path:
        command = [node, str(HERE / "print.js"), browser, f"{html.resolve().as_uri()}?view=print", str(path)]
        subprocess.run(command, check=True, timeout=300)
    return True


def main() -> int:
    """Write both files."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    html, out = HERE / "gta-slides.html", HERE / "gta-slides.pdf"
    with atomic_path(html) as path:
        path.write_text(page(Path(sys.argv[1])), encoding="utf-8")
    print(f"{html.name}: {len(slides())} slides, {html.stat().st_size / 1e6:.1f} MB")
    print(out.name if pdf(html, out) else "no PDF: Chromium or node is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
