"""Sections that a reader unfolds: those with the comment ``<!-- folded -->`` after their heading.

The heading stays where it is, in the table of contents too, and keeps its anchor; what follows it is folded. Without
this extension, as where a page is read in the repository, the comment changes nothing. A browser unfolds a section in
which its search finds something; ``_static/folds.js`` unfolds what a link leads to, and everything for the printer.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

MARK = "<!-- folded -->"


def marked(section: nodes.section) -> nodes.Node | None:
    """The comment that folds a section: its first node after the title."""
    first = section[1] if len(section) > 1 else None
    return first if isinstance(first, nodes.raw) and first.astext().strip() == MARK else None


def fold(_app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Put <details> around the marked sections' contents, with the title as the summary."""
    for section in list(doctree.findall(nodes.section)):
        mark = marked(section)
        if mark is not None:
            section.remove(mark)
            title, *rest = section.children
            section.children = []
            section += raw('<details class="folded"><summary>')
            section += title
            section += raw("</summary>")
            section += rest
            section += raw("</details>")


def raw(html: str) -> nodes.raw:
    """A piece of HTML."""
    return nodes.raw("", html, format="html")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-resolved", fold)
    app.add_css_file("folds.css")
    app.add_js_file("folds.js")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
