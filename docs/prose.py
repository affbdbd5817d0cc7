"""Find wordings that have made readers of this project stumble: ``python docs/prose.py [FILE ...]``.

Without names it reads the pages, and the docstrings, comments and texts of the Python files. It prints
``file:line: "what was found": why``, and exits with 1 if it has found anything. Code is not read: neither that of the
Python files nor what stands in Markdown's fences or in backticks.
"""

from __future__ import annotations

import io
import re
import sys
import token
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "docs/**/*.rst", "cuda/*.md", "notebooks/*.md")
PYTHON = tuple(f"{folder}/**/*.py" for folder in ("gta_ref", "cuda", "notebooks", "docs", "tests"))
MADE = ("docs/_build", "docs/notebooks")  # made from other files
SELF = ("docs/prose.py", "tests/docs/test_prose.py")  # they have to quote what is wrong

# What is right as it stands, word by word. Before you add a phrase here, try to rewrite the sentence.
ALLOWED = (
    "leaves behind",
    "leave behind",
    "left behind",
    "lags behind",
    "lag behind",
    "the module behind",
    "the facts behind",
    "the idea behind",
    "the memory behind",
    "behind a command",
    "behind this command",
    "behind the command",
)

COUNTED = (
    "accumulates|additions|bits|blocks|bytes|columns|elements|entries|floats|flops|heads|hours|instructions|keys|"
    "kernels|layers|lines|maps|milliseconds|minutes|multiplications|multiply.adds|nats|numbers|operations|parameters|"
    "positions|products|queries|registers|roundings|rows|scores|seconds|sequences|steps|sums|threads|tiles|tokens|"
    "units|values|warps|words|[kMGT]i?B|G?FLOPs?|[mµn]s"
)
PER = (
    "(?:batch|block|byte|call|case|chip|chunk|column|core|cycle|device|element|exercise|file|group|head|hour|item|"
    "kernel|key|lane|layer|length|line|machine|map|mechanism|microsecond|millisecond|minute|model|multiply.add|"
    "nanosecond|notebook|number|operation|page|pair|parameter|pass|position|process|product|query|round|row|run|second|"
    "seed|sequence|step|study|thread|tile|token|unit|value|warp|window|word|worker|year)"
)
NUMBER = "one|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen"
# "the maps a layer computes", "once a layer has them" and "at equal parameters a step of GTA" are right
AUXILIARY = "can|cannot|could|did|does|had|has|is|may|might|must|should|was|were|will|would"
NO_VERB = rf"\b(?!['’]|\s+(?:of|{AUXILIARY}|\w{{2,}}(?<!s)s)\b)"


class Pattern(NamedTuple):
    """A wording and the reason why it is replaced."""

    found: re.Pattern[str]
    why: str


def _pattern(found: str, why: str) -> Pattern:
    return Pattern(re.compile(found.replace(" ", r"\s+"), re.IGNORECASE), why)


PATTERNS = (
    _pattern(rf"\b(?:{COUNTED}) an? {PER}{NO_VERB}", '"a" in the sense of "per"; write "per"'),
    _pattern(rf"\b(?:{NUMBER}) an? {PER}{NO_VERB}", '"a" in the sense of "per"; write "one per …"'),
    _pattern(rf"\b\d[\d.,]* an? {PER}(?=[,.;:)])", '"a" in the sense of "per"; write "7 per …"'),
    _pattern(rf"\bonce an? {PER}{NO_VERB}", '"a" in the sense of "per"; write "once per …"'),
    _pattern(r"\bso many\b(?!(?: \S+)? that\b)", 'no number: write "this many", "that many" or the number'),
    _pattern(r"\bbehind\b", 'unless it is a place in space: write "after", "following" or "at the end of"'),
    _pattern(r"\b(?:any|every|no|some)body(?:['’]s)?\b|\bwhoever\b", "name the thread, program, reader or array"),
    _pattern(r"\btold (?:apart|from)\b", 'write "distinguished", or "statistically distinguishable"'),
    _pattern(r"\bthe way down\b", 'write "the learning curve", or what it is the way to'),
    _pattern(r"\bdearest\b", 'write "most expensive"'),
    _pattern(r"\bback and forth\b", 'say the order, for example "in serpentine order"'),
    _pattern(r"\bbut for\b", 'in the sense of "except for"; write "except for" or "apart from"'),
    _pattern(r"\bat hand\b", "say what is available, and where"),
    _pattern(r"\blets? go of\b|\bletting go of\b", 'write "releases"'),
    _pattern(r"\b(?:dealt|deals?|dealing) out\b", 'write "distributed"'),
    _pattern(r"\ball alike\b", 'write "in the same way" or "all equal"'),
    _pattern(r"\bwhat (?:it|the \w+) is worth\b", "say what it is good for, in figures if there are any"),
)


def _blank(text: str) -> str:
    """The same text with a bar for every character that can be seen, so that places and lines stay."""
    return re.sub(r"\S", "|", text)


def _spaces(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _texts(source: str) -> str:
    """A Python file without its code: comments, docstrings and strings stay where they are, without # and quotes."""
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    shown = list(_blank(source))
    for kind, _, (row, column), (last_row, last_column), _ in tokenize.generate_tokens(io.StringIO(source).readline):
        place = slice(starts[row - 1] + column, starts[last_row - 1] + last_column)
        text = source[place]
        if kind == token.COMMENT:
            text = re.sub(r"^#+", _spaces, text)
        elif kind == token.STRING and re.search(r"\s", text):  # one word is a name
            if re.match("(?i:rf|fr?)['\"]", text):
                text = re.sub(r"\{[^{}]*\}", lambda match: _blank(match[0]), text)
            text = re.sub(r"^\w*['\"]+|['\"]+$|\\n", _spaces, text)
        elif token.tok_name[kind] in ("FSTRING_START", "FSTRING_END"):  # since Python 3.12
            text = " " * len(text)
        elif token.tok_name[kind] != "FSTRING_MIDDLE":
            continue
        shown[place] = text
    return "".join(shown)


def findings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, what was found there, and why it is to be replaced."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = _texts(text)
    for code in (r"^[ \t]*(```|~~~).*?^[ \t]*\1", r"(`+)[^`\n]+(?:\n[^`\n]+)?\1"):
        text = re.sub(code, lambda match: _blank(match[0]), text, flags=re.MULTILINE | re.DOTALL)
    allowed = [match.span() for phrase in ALLOWED for match in _pattern(phrase, "").found.finditer(text)]
    found = [(match, pattern.why) for pattern in PATTERNS for match in pattern.found.finditer(text)]
    for match, why in sorted(found, key=lambda one: one[0].start()):
        if not any(start <= match.start() and match.end() <= stop for start, stop in allowed):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), why


def files() -> list[Path]:
    """The project's files that are read."""
    found = {path for pattern in (*PAGES, *PYTHON) for path in ROOT.glob(pattern)}
    names = {path: path.relative_to(ROOT).as_posix() for path in found}
    return sorted(path for path, name in names.items() if name not in SELF and not name.startswith(MADE))


def main(arguments: list[str]) -> int:
    """Print what was found; 1 if there is anything."""
    wrong = 0
    for path in [Path(name) for name in arguments] or files():
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for line, what, why in findings(path):
            print(f'{shown}:{line}: "{what}": {why}')
            wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
