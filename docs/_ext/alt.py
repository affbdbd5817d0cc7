"""Alternative texts for the figures that a notebook's cells draw; images in Markdown have theirs in the page.

The text is the first line of the docstring of the function that drew the figure, such as
``plots_costs.time_parts``. If the cell calls no function of ``gta_ref.plots``, the text is the first sentence of the
paragraph before the cell.
"""

from __future__ import annotations

import re
from importlib import import_module

from docutils import nodes
from sphinx.application import Sphinx

CALL = re.compile(r"\bplots_(\w+)\.(\w+)\(")
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


def describe(_app: Sphinx, doctree: nodes.document) -> None:
    """Give every image of a cell's outputs an alternative text."""
    for cell in doctree.findall(lambda n: isinstance(n, nodes.container) and "cell" in n["classes"]):
        source = "\n".join(block.astext() for block in cell.findall(nodes.literal_block))
        for image in cell.findall(nodes.image):
            if not image.get("alt"):
                image["alt"] = drawn_by(source) or before(cell)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-read", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
