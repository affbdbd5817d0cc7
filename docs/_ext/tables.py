"""Columns of figures in tables are aligned to the right, headings included; nothing has to be marked in the text.

A cell is a figure if it holds only digits, signs and units: ``1,218``, ``0.375``, ``1.5×``, ``70 %``,
``22,692 (23,578)``, ``1.370 ± 0.006``, ``[−0.056, +0.074]``, ``64 + 128 = 192``. A column is one of figures if at least
two thirds of its cells that are not empty are, so that a "never" among numbers is aligned with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

UNITS = r"[kMGT]?i?B(?:/s)?|[kMGT]?FLOP(?:/s|s)?|[kMGT]?Hz|[nµm]?s|M|nats|bits|tokens/s|×|%|x"
FIGURE = re.compile(rf"(?:[\d\s.,:+\-−–…±·*/=()\[\]<>≤≥~≈^²³]|(?<=\d)e(?=[+-]?\d)|(?<=[\d\s])(?:{UNITS})(?![A-Za-z]))+")
ALIGNED = {"text-left", "text-center", "text-right"}  # by the author


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


def align(_app: Sphinx, doctree: nodes.document) -> None:
    """Mark the columns of figures of every table."""
    for group in doctree.findall(nodes.tgroup):
        for head, body in columns(group):
            texts = [text for cell in body if (text := cell.astext().strip())]
            if texts and 3 * sum(map(is_figure, texts)) >= 2 * len(texts):
                for cell in head + body:
                    if not ALIGNED & set(cell["classes"]):
                        cell["classes"].append("numeric")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-read", align)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
