"""The directive ``exercises``: a section for every exercise, with its statement and its notebook to download.

The statements are those of the starters in notebooks/exercises/: everything from the title to the small example,
without the line on setting up, which the page says once.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "../notebooks/exercises"  # from docs/
CELL = re.compile(r"(?m)^# %%")
UNTIL = "### Check it"


def statement(source: str) -> tuple[str, str]:
    """Turn a starter, in jupytext's percent format, into its title and the rest of its statement, in Markdown."""
    title, parts = "", []
    for cell in CELL.split(source)[1:]:
        head, _, body = cell.partition("\n")
        body = body.strip()
        if "[markdown]" not in head:
            if not body.startswith(("import ", "from ", "np.set_printoptions")):
                parts.append(f"```python\n{body}\n```")
            continue
        text = re.sub(r"(?m)^# ?", "", body)
        if text.startswith(UNTIL):
            break
        if text.startswith("# "):
            title, _, text = text.removeprefix("# ").partition("\n")
            text = re.sub(r"(?ms)^Set up once.*?(\n\n|\Z)", "", text)
            text = re.sub(r"`docs/(\w+)\.md`", r"[\1](\1.md)", text)
        parts.append(re.sub(r"(?m)^#+ (.+)$", r"**\1**", text).strip())
    return title.strip(), "\n\n".join(parts)


class Exercises(SphinxDirective):
    """A section for every exercise."""

    def run(self) -> list[nodes.Node]:
        """Read the starters and make the sections."""
        sections: list[nodes.Node] = []
        for path in sorted((Path(self.env.srcdir) / FOLDER).glob("ex*.py")):
            self.env.note_dependency(str(path))
            title, text = statement(path.read_text(encoding="utf-8"))
            name = path.name[:4]
            section = nodes.section(ids=[name], names=[name])
            section += nodes.title("", title)
            notebook = path.with_suffix(".ipynb").name
            download = f"Notebook: {{download}}`{notebook} <{FOLDER}/{notebook}>`"
            section += self.parse_text_to_nodes(f"{text}\n\n{download}")
            self.state.document.note_explicit_target(section)
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("exercises", Exercises)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
