"""Every command and example in the README and on the pages works.

A block of commands or Python is run in an empty folder, unless the line above it is a tag such as
``<!-- takes: minutes -->``, ``<!-- needs: gpu -->`` or ``<!-- needs: torch -->``. For commands in tagged blocks and
inside sentences, only the options are checked, by running the command with --help. make's targets must exist, but are
never run.
"""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from gta_ref import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^(?P<tag><!--[^\n]*-->)\n)?^```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TAG = re.compile(r"<!-- (takes|needs): .+ -->")
INSTALLED = {"venv", "pip", "pytest", "jupyterlab"}  # modules outside the project that `python -m` runs


class Block(NamedTuple):
    page: Path
    line: int
    tagged: bool
    language: str
    text: str

    @property
    def name(self):
        return f"{self.page.name}:{self.line}"


def blocks(page, text):
    for match in FENCE.finditer(text):
        tag = match["tag"]
        yield Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            tag is not None and TAG.fullmatch(tag) is not None,
            match["language"],
            match["text"],
        )


def commands(text):
    """The words of each command in a block, without comments; a line that ends in \\ continues on the next."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):  # a variable that is set for this command only
            words = words[1:]
        if words:
            yield [Path(words[0]).name, *words[1:]]


def spans(text):
    """Commands inside sentences, such as `gta-ref ...`, `make ...`, `python -m ...`, that have no placeholders."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(\w+=\S+ )?(gta-ref|make|python -m) [a-z]", span) and not re.search(
            r"[<…]|[A-Z]{4}(?!\w*=)", span
        ):
            yield from commands(span)


def gta_ref(*words):
    return CliRunner().invoke(cli.app, list(words), prog_name="gta-ref")


def check_options(words):
    """Check what can be checked without running a command: gta-ref's options, make's targets, python's modules."""
    program, *rest = words
    if program == "gta-ref":
        result = gta_ref(*rest, "--help")  # an unknown option or command is an error before the help
        assert result.exit_code == 0, result.output
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE), f"make {target}: no such target"
    elif program.startswith("python") and rest[:1] == ["-m"] and rest[1] not in INSTALLED:
        assert importlib.util.find_spec(rest[1]) is not None, f"python -m {rest[1]}: no such module"


BLOCKS = [block for page in PAGES for block in blocks(page, page.read_text(encoding="utf-8"))]
TO_RUN = {
    f"{block.name} {shlex.join(words)}"[:90]: words
    for block in BLOCKS
    if block.language == "sh" and not block.tagged
    for words in commands(block.text)
}
TO_CHECK = {
    f"{page.name} {shlex.join(words)}"[:90]: words
    for page in PAGES
    for words in [
        *(w for b in BLOCKS if b.page == page and b.language == "sh" and b.tagged for w in commands(b.text)),
        *spans(page.read_text(encoding="utf-8")),
    ]
}
PYTHON = {block.name: block for block in BLOCKS if block.language == "python" and block.page.name != "README.md"}


@pytest.mark.parametrize("name", TO_RUN)
def test_command_runs(name, tmp_path, monkeypatch):
    words = TO_RUN[name]
    if words[0] == "make":
        check_options(words)
        return
    assert words[0] == "gta-ref", f"{words[0]} cannot be run here; tag the block: <!-- needs: ... -->"
    monkeypatch.chdir(tmp_path)
    result = gta_ref(*words[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", TO_CHECK)
def test_options_exist(name):
    check_options(TO_CHECK[name])


@pytest.mark.parametrize("name", PYTHON)
def test_python_example(name, tmp_path, monkeypatch):
    block = PYTHON[name]
    code = compile(block.text, name, "exec")
    if not block.tagged:
        monkeypatch.chdir(tmp_path)
        exec(code, {"__name__": "__main__"})


def test_every_page_was_read():
    assert len(TO_RUN) >= 8
    assert {words[1] for words in [*TO_RUN.values(), *TO_CHECK.values()] if words[0] == "gta-ref"} >= {
        "bench",
        "costs",
        "doctor",
        "tour",
        "train",
        "vectors",
        "verify",
    }


@pytest.mark.parametrize(
    "tag", re.findall(r"^<!--.*-->(?=\n```)", "\n".join(p.read_text("utf-8") for p in PAGES), re.M)
)
def test_a_tag_says_takes_or_needs(tag):
    assert TAG.fullmatch(tag)


@pytest.mark.parametrize(
    "command",
    [
        "gta-ref dance",
        "gta-ref costs --depth 3",
        "gta-ref costs frontier --batch 2",
        "make nothing",
        "python -m gta_ref.no",
    ],
)
def test_a_wrong_command_is_found(command):
    (words,) = commands(command)
    with pytest.raises(AssertionError):
        check_options(words)


def test_a_block_is_read_as_a_shell_would():
    text = "x\n<!-- needs: gpu -->\n```sh\nA=1 .venv/bin/gta-ref costs \\\n  --batch 2  # so\n\nmake tour\n```\n\n```sh\nls\n```\n"
    first, second = blocks(Path("page.md"), text)
    assert first.tagged
    assert not second.tagged
    assert list(commands(first.text)) == [["gta-ref", "costs", "--batch", "2"], ["make", "tour"]]
    assert list(spans("see `make tour` and `gta-ref costs --batch N` or `gta-ref verify --impl <yours>`")) == [
        ["make", "tour"],
        ["gta-ref", "costs", "--batch", "N"],
    ]
