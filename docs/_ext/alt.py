"""Alternative texts: for the figures that a notebook's cells draw, and for pictures and sliders in a cell's HTML.

The text is the first line of the docstring of the function that drew the figure, such as
``plots_costs.time_parts``. If the cell calls no function of ``gta_ref.plots``, the text is the first sentence of the
paragraph before the cell. To figures with the same text the section's title is added, and then a number.

Images in Markdown have their text in the page; MyST joins the words on both sides of a line break, and they are
separated again here.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from html import escape
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

CALL = re.compile(r"\bplots_(\w+)\.(\w+)\(")
WRITTEN = re.compile(r"!\[([^\]]*)\]")
BARE_IMAGE = re.compile(r"<img\b(?![^>]*\balt=)")
BARE_SLIDER = re.compile(r"<input\b(?=[^>]*type=[\"']?range)(?![^>]*\baria-label)")
LONGEST = 200  # characters


def sentence(text: str) -> str:
    """Cut a text after its first sentence, or after a word if that is too long."""
    text = re.split(r"(?<=[.?])\s", " ".join(text.split()))[0].rstrip(":")
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def drawn_by(source: str) -> str:
    """Say what the last figure function that a cell calls draws, or nothing."""
    for module, name in reversed(CALL.findall(source)):
        function = getattr(import_module(f"gta_ref.plots.{module}"), name, None)
        if function is not None and function.__doc__:
            text = function.__doc__.splitlines()[0].removeprefix("Draw ")
            return text[0].upper() + text[1:]
    return ""


def before(cell: nodes.Element) -> str:
    """Find the beginning of the last paragraph before a cell."""
    document = cell.document
    found = ""
    for node in document.findall(lambda n: n is cell or isinstance(n, nodes.paragraph)):
        if node is cell:
            break
        found = node.astext()
    return sentence(found)


def title(node: nodes.Node) -> str:
    """The title of the section that a node is in."""
    while node is not None and not isinstance(node, nodes.section):
        node = node.parent
    return node[0].astext() if node is not None else ""


def tell_apart(images: list[nodes.image]) -> None:
    """Add the sections' titles to texts that several images have, and numbers to those that are still alike."""
    for addition in (lambda image, *_: title(image), lambda _, i, n: f"{i} of {n}"):
        alike = defaultdict(list)
        for image in images:
            alike[image["alt"]].append(image)
        for group in alike.values():
            if len(group) > 1:
                for i, image in enumerate(group, 1):
                    image["alt"] += f" ({addition(image, i, len(group))})"


def in_html(html: str, text: str) -> str:
    """Give the images and sliders in a cell's HTML that have no text this one."""
    html = BARE_IMAGE.sub(lambda _: f'<img alt="{escape(text)}"', html)
    return BARE_SLIDER.sub(lambda _: f'<input aria-label="Frame of: {escape(text)}"', html)


def markdown(path: Path) -> str:
    """The Markdown of a page or of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


def describe(app: Sphinx, doctree: nodes.document) -> None:
    """Give every image of a cell's outputs an alternative text, and every other image its own as it was written."""
    drawn = []
    for cell in doctree.findall(lambda n: isinstance(n, nodes.container) and "cell" in n["classes"]):
        text = drawn_by("\n".join(block.astext() for block in cell.findall(nodes.literal_block))) or before(cell)
        for image in cell.findall(nodes.image):
            if text and not image.get("alt"):
                image["alt"] = text
                drawn.append(image)
        for raw in cell.findall(nodes.raw):
            if (html := in_html(raw.astext(), text)) != raw.astext():
                raw.children[:] = [nodes.Text(html)]
    tell_apart(drawn)
    written = {}
    for image in doctree.findall(nodes.image):
        if image not in drawn and image.get("alt"):
            written = written or {
                "".join(text.split()): " ".join(text.split())
                for text in WRITTEN.findall(markdown(Path(app.env.doc2path(app.env.docname))))
            }
            image["alt"] = written.get("".join(image["alt"].split()), image["alt"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-read", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
