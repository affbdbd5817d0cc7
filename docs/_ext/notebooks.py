"""The executed notebooks in docs/notebooks/, if there are any.

The directive ``notebooks`` lists them, or says how to make them. Two things in a notebook are changed for the site:

- A link to ``../docs/costs.md`` leads to that page of the site, and a link to ``exercises/`` to the page on exercises.
- Matplotlib's animations load the symbols of their buttons from another host; ``_static/site.css`` replaces them.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# in a notebook's JSON, a line may end inside the tag, which then contains the two characters \n
BUTTONS = re.compile(r"<link[^>]*font-awesome[^>]*>")

LIST = """
```{toctree}
:glob:
:maxdepth: 1

notebooks/*
```
"""
NONE = """
:::{note}
This copy of the site was built without the executed notebooks. `make docs` executes them first; they are then listed
here.
:::
"""


class Notebooks(SphinxDirective):
    """A table of contents of the executed notebooks, or a note that there are none."""

    def run(self) -> list[nodes.Node]:
        """Return the table of contents if the folder contains a notebook, else the note."""
        found = any((Path(self.env.srcdir) / "notebooks").glob("*.ipynb"))
        return self.parse_text_to_nodes(LIST if found else NONE)


def for_the_site(source: str) -> str:
    """The notebook's JSON with links and animations changed for the site."""
    source = source.replace("](../docs/", "](../")
    source = re.sub(r"\]\(exercises/[^)]*\)", "](../exercises.md)", source)
    return BUTTONS.sub("", source)


def on_source(app: Sphinx, name: str, content: list[str]) -> None:
    """Change a notebook's source before Sphinx parses it."""
    if str(app.env.doc2path(name)).endswith(".ipynb"):
        content[0] = for_the_site(content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("notebooks", Notebooks)
    app.connect("source-read", on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
