"""What tables and the figures in a text need besides Markdown; nothing has to be marked in the text.

Columns of figures are aligned to the right, headings included. A cell is a figure if it holds only digits, signs and
units: ``1,218``, ``0.375``, ``1.5×``, ``70 %``, ``22,692 (23,578)``, ``1.370 ± 0.006``, ``[−0.056, +0.074]``,
``64 + 128 = 192``. A column is one of figures if at least two thirds of its cells that are not empty are, so that a
"never" among numbers is aligned with them.

A figure with spaces or signs in it does not break over two lines, in a table or in a paragraph. A heading without text
is a cell like any other, because a screen reader would announce it with every cell below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

UNITS = r"[kMGT]?i?B(?:/s)?|[kMGT]?FLOP(?:/s|s)?|[kMGT]?Hz|[nµm]?s|M|nats|bits|tokens/s|×|%|x"
FIGURE = re.compile(rf"(?:[\d\s.,:+\-−–…±·*/=()\[\]<>≤≥~≈^²³]|(?<=\d)e(?=[+-]?\d)|(?<=[\d\s])(?:{UNITS})(?![A-Za-z]))+")
ALIGNED = {"text-left", "text-center", "text-right"}  # by the author
IN_TEXT = re.compile(rf"(?<!\w){FIGURE.pattern}")  # "GTA-1B" and "(a) 2" have none
# a list of figures may break after each, but not inside the brackets of an interval
BETWEEN = re.compile(r"(?<=[,;:])\s+(?![^\[(]*[\])])")
LONGEST = 30  # characters that must stay on one line


def is_figure(text: str) -> bool:
    """Whether a cell holds nothing but numbers with signs and units."""
    return any(c.isdigit() for c in text) and FIGURE.fullmatch(text.strip()) is not None


def columns(group: nodes.tgroup) -> Iterator[tuple[list[nodes.entry], list[nodes.entry]]]:
    """Yield each column's cells, of the head and of the body, in a table without cells that span several columns."""
    rows = {part: [list(row) for p in group.findall(part) for row in p] for part in (nodes.thead, nodes.tbody)}
    width = max(len(row) for of_part in rows.values() for row in of_part)
    if any(len(row) != width or any("morecols" in cell for cell in row) for of in rows.values() for row in of):
        return
    for i in range(width):
        yield [row[i] for row in rows[nodes.thead]], [row[i] for row in rows[nodes.tbody]]


def align(group: nodes.tgroup) -> None:
    """Mark the columns of figures of a table."""
    for head, body in columns(group):
        texts = [text for cell in body if (text := cell.astext().strip())]
        if texts and 3 * sum(map(is_figure, texts)) >= 2 * len(texts):
            for cell in head + body:
                if not ALIGNED & set(cell["classes"]):
                    cell["classes"].append("numeric")


def pieces(text: str) -> list[tuple[str, bool]]:
    """Cut a text into parts, and say of each whether it is a figure that a line could break."""
    found, end = [], 0
    for run in IN_TEXT.finditer(text):
        start = run.start()
        for gap in [*BETWEEN.finditer(text, run.start(), run.end()), None]:
            stop = gap.start() if gap else run.end()
            figure = text[start:stop].strip()
            if any(c.isdigit() for c in figure) and re.search(r"[\s–−/+-]", figure) and len(figure) <= LONGEST:
                at = text.index(figure, start)
                found += [(text[end:at], False), (figure, True)]
                end = at + len(figure)
            start = gap.end() if gap else stop
    return [(part, kept) for part, kept in [*found, (text[end:], False)] if part]


def keep_together(paragraph: nodes.paragraph) -> None:
    """Put every figure with a space or a sign in it into an element that does not break."""
    for text in list(paragraph.findall(nodes.Text)):
        if isinstance(text.parent, (nodes.literal, nodes.math, nodes.raw)):
            continue
        parts = pieces(str(text))
        if any(kept for _, kept in parts):
            new = [nodes.inline("", part, classes=["nowrap"]) if kept else nodes.Text(part) for part, kept in parts]
            text.parent.replace(text, new)


def on_read(_app: Sphinx, doctree: nodes.document) -> None:
    """Change the tables and the paragraphs of a page."""
    for group in doctree.findall(nodes.tgroup):
        align(group)
    for paragraph in list(doctree.findall(nodes.paragraph)):
        keep_together(paragraph)


def visit_entry(self: HTML5Translator, node: nodes.entry) -> None:
    """Write a cell; one of the head that is empty is not a heading."""
    HTML5Translator.visit_entry(self, node)
    if self.body[-1].startswith("<th") and not node.astext().strip() and not any(node.findall(nodes.image)):
        self.body[-1] = "<td" + self.body[-1].removeprefix("<th")
        self.context[-1] = "</td>\n"


def depart_entry(self: HTML5Translator, node: nodes.entry) -> None:
    """Close a cell."""
    HTML5Translator.depart_entry(self, node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_node(nodes.entry, override=True, html=(visit_entry, depart_entry))
    app.connect("doctree-read", on_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
