"""The directive ``commands``: the output of ``--help`` for every command, taken from the commands themselves."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.testing import CliRunner

from gta_ref import cli


def help_of(*words: str) -> str:
    """The output of ``gta-ref WORDS --help``."""
    result = CliRunner().invoke(cli.app, [*words, "--help"], prog_name="gta-ref", env={"COLUMNS": "80"})
    return result.output.strip("\n")


def subcommands(text: str) -> list[str]:
    """The names listed under the heading "Commands:" in a help text."""
    _, _, listed = text.partition("\nCommands:\n")
    return re.findall(r"^  (\S+)", listed, flags=re.MULTILINE)


def all_commands(*words: str) -> list[tuple[str, ...]]:
    """Every command below `words`; a group comes before its members."""
    found: list[tuple[str, ...]] = []
    for name in subcommands(help_of(*words)):
        found += [(*words, name), *all_commands(*words, name)]
    return found


class Commands(SphinxDirective):
    """A section for every command."""

    def run(self) -> list[nodes.Node]:
        """Make a section with the help as a literal block."""
        sections: list[nodes.Node] = []
        for words in all_commands():
            name = " ".join(words)
            section = nodes.section(ids=[nodes.make_id(f"command {name}")], names=[f"command {name}"])
            section += nodes.title("", "", nodes.literal(name, name))
            section += nodes.literal_block("", help_of(*words), language="none")
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
