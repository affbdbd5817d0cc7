"""The executed notebooks in docs/notebooks/, where there are any.

The directive ``notebooks`` lists them, or says how they are made. What a notebook says for its own folder is made right
for the site:

- A link to ``../docs/costs.md`` leads to the page of the site, one to ``exercises/`` to the page about them.
- An animation of matplotlib's asks another host for the pictures of its buttons; ``_static/site.css`` has them.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# in a notebook's JSON a line may end within the tag, as \n in the text
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
    """A table of contents, or a note."""

    def run(self) -> list[nodes.Node]:
        """Look into the folder."""
        found = any((Path(self.env.srcdir) / "notebooks").glob("*.ipynb"))
        return self.parse_text_to_nodes(LIST if found else NONE)


def for_the_site(source: str) -> str:
    """The notebook's JSON with links and animations mended."""
    source = source.replace("](../docs/", "](../")
    source = re.sub(r"\]\(exercises/[^)]*\)", "](../exercises.md)", source)
    return BUTTONS.sub("", source)


def on_source(app: Sphinx, name: str, content: list[str]) -> None:
    """Change a notebook before it is read."""
    if str(app.env.doc2path(name)).endswith(".ipynb"):
        content[0] = for_the_site(content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("notebooks", Notebooks)
    app.connect("source-read", on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
