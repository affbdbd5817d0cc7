"""The directive ``modules``: every module of a package with its functions, taken from the docstrings.

.. code-block:: rst

    .. modules:: gta_ref.core
       :only: engines mask ref*
       :exclude: cpu
       :shown-above: attention_forward, attention_backward

A new module appears in the reference without any change to a page. Docstrings are shown as they were typed: a block
that is indented under a paragraph keeps its columns, and d_ and |P| are plain text, not markup.
"""

from __future__ import annotations

import pkgutil
import re
from fnmatch import fnmatch
from importlib import import_module
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Modules(SphinxDirective):
    """One section per module, in alphabetical order."""

    required_arguments = 1
    option_spec: ClassVar = {name: directives.unchanged for name in ("only", "exclude", "shown-above")}

    def run(self) -> list[nodes.Node]:
        """Write the sections as text, and let Sphinx parse it."""
        package = self.arguments[0]
        only, excluded = self.options.get("only", "*").split(), self.options.get("exclude", "").split()
        names = [info.name for info in pkgutil.iter_modules(import_module(package).__path__) if info.name != "__main__"]
        text = "\n".join(
            section(f"{package}.{name}", self.options.get("shown-above", ""))
            for name in names
            if any(fnmatch(name, pattern) for pattern in only) and name not in excluded
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def section(module: str, without: str) -> str:
    """The heading of a module and the directive that documents all its members except those named in `without`."""
    title = f"``{module}``"
    text = f"{title}\n{'-' * len(title)}\n\n.. automodule:: {module}\n"
    return text + (f"   :exclude-members: {without}\n" if without else "")


def as_typed(lines: list[str]) -> list[str]:
    """Mark indented blocks as literal, and escape what reStructuredText would read as markup in all other text.

    A block starts with a line that follows an empty one and is at least four columns deeper than the text above it. It
    is left unchanged after text that ends in ``::``, in a list and in a directive.
    """
    shown: list[str] = []
    above = ""  # the last line of text outside a block
    inside = False
    for i, line in enumerate(lines):
        depth, over = _indent(line), _indent(above)
        if line.strip() and depth <= over:
            inside = False
        elif line.strip() and not inside and above and not lines[i - 1].strip() and depth >= over + 4:
            inside = True
            if not above.rstrip().endswith("::") and not above.lstrip().startswith(("- ", "* ", ".. ")):
                shown += [" " * over + "::", ""]
        if line.strip() and not inside:
            above = line
        shown.append(line if inside else escape(line))
    return shown


def escape(line: str) -> str:
    """Put a backslash before each | and before each _ at the end of a word, except between backquotes."""
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    parts[::2] = [re.sub(r"\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def on_docstring(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Change a docstring before numpydoc sees it."""
    lines[:] = as_typed(lines)


def skip(_app: Sphinx, _what: str, _name: str, member: object, _skip: bool, _options: object) -> bool | None:
    """Leave out the fields of named tuples: Python generates their docstrings."""
    doc = getattr(member, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def without_ways_back(_app: Sphinx, page: str, _template: str, context: dict, _doctree: object) -> None:
    """Remove viewcode's links from source to reference: it guesses where a function is documented, often wrongly."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


def flat_index(_app: Sphinx, page: str, _template: str, context: dict, _doctree: object) -> None:
    """Make one list of viewcode's list of modules: a list inside it would have to be in one of its items."""
    if page == "_modules/index":
        before, _, inside = context["body"].partition("<ul>")
        inside, _, after = inside.rpartition("</ul>")
        context["body"] = f"{before}<ul>{re.sub('</?ul>', '', inside)}</ul>{after}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("modules", Modules)
    app.connect("autodoc-process-docstring", on_docstring, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("html-page-context", without_ways_back)
    app.connect("html-page-context", flat_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
