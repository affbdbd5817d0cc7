"""`docs/prose.py`: each pattern finds what it is there for and leaves good sentences alone; lines and code are right."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "prose.py"
prose = SimpleNamespace(**runpy.run_path(str(SCRIPT)))

# in the order of PATTERNS: what is found, with its sentence, and sentences in which nothing is
EXAMPLES = [
    (
        ("It caches 192 elements a token and layer.", "elements a token"),
        ["It caches 192 elements per token.", "These are the maps a layer computes.", "12 rows a product's operands"],
    ),
    (("The counts, one a map, are ints.", "one a map"), ["The counts, one per map.", "This one a reader may skip."]),
    (("A block has 16 a warp, and no more.", "16 a warp"), ["By Eq. 7 a query reads all.", "A block has 16 per warp."]),
    (("The cache is read once a token, like it.", "once a token"), ["Once a token has been cached, it is read."]),
    (("It runs so many steps.", "so many"), ["It has so many numbers that it is slow.", "It has as many as that."]),
    (
        ("Tokens behind the prompt are new.", "behind"),
        ["What a token leaves behind", "This is the module behind this command.", "Tokens after the prompt are new."],
    ),
    (("Until nobody reads the tile.", "nobody"), ["Until no thread reads the tile."]),
    (
        ("The means are not told apart.", "told apart"),
        ["They are statistically distinguishable.", "We are told a story."],
    ),
    (("Right: the way down.", "the way down"), ["Right: the learning curve.", "On the way, down there"]),
    (("The dearest items come first.", "dearest"), ["The most expensive items come first."]),
    (("They walk back and forth.", "back and forth"), ["They go forth in serpentine order."]),
    (("It is 0, but for rounding.", "but for"), ["It is 0, apart from rounding."]),
    (("No GPU was at hand.", "at hand"), ["No GPU was available.", "A reader looks at handouts."]),
    (("It lets go of the GIL.", "lets go of"), ["It releases the GIL."]),
    (("Items are dealt out.", "dealt out"), ["Items are distributed.", "It is dealt with."]),
    (("They are treated all alike.", "all alike"), ["They are alike."]),
    (("It says what the kit is worth.", "what the kit is worth"), ["It says what it is good for."]),
]


def found_in(path, text):
    path.write_text(text, encoding="utf-8")
    return [(line, what) for line, what, _ in prose.findings(path)]


def test_every_pattern_has_an_example():
    assert len(EXAMPLES) == len(prose.PATTERNS)


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=lambda i: EXAMPLES[i][0][1])
def test_a_pattern_finds_the_bad_and_not_the_good(tmp_path, number):
    (bad, what), good = EXAMPLES[number]
    assert prose.PATTERNS[number].found.search(bad)[0] == what
    assert found_in(tmp_path / "page.md", bad) == [(1, what)]
    for sentence in good:
        assert found_in(tmp_path / "page.md", sentence) == []


def test_a_page_without_its_code(tmp_path):
    page = (
        "# Title\n\n`behind` and\n\n```python\nbehind = 1\n```\n\nIt takes 4 bytes\nan element.\n\n~~~\nnobody\n~~~\n"
    )
    assert found_in(tmp_path / "page.md", page) == [(9, "bytes an element")]


PYTHON = '''"""A module.

Tokens behind the prompt.
"""

behind = {"behind": nobody}  # until nobody reads it


def f(x):
    r"""One a
    token, and ``behind``."""
    # This is the fact behind what
    #  is read once a
    #  token.
    raise ValueError(f"{behind!r} is {x[behind]} elements a "
        f"token\\nand nobody's")


joined = ("elements", "a token")
'''


def test_comments_docstrings_and_strings_of_a_python_file(tmp_path):
    assert found_in(tmp_path / "file.py", PYTHON) == [
        (3, "behind"),
        (6, "nobody"),
        (10, "One a token"),
        (12, "behind"),
        (13, "once a token"),
        (15, "elements a token"),
        (16, "nobody's"),
    ]


def test_a_planted_sentence_ends_in_status_1(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nAll is well.\n", encoding="utf-8")
    run = [sys.executable, str(SCRIPT), str(page)]
    done = subprocess.run(run, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")
    page.write_text("# Title\n\nThe workers let go of the GIL.\n", encoding="utf-8")
    done = subprocess.run(run, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, f'{page}:3: "let go of": write "releases"\n')


def test_what_is_read():
    names = {path.relative_to(prose.ROOT).as_posix() for path in prose.files()}
    assert names >= {
        "README.md",
        "docs/kernels.md",
        "docs/api/index.rst",
        "docs/_ext/commands.py",
        "cuda/README.md",
        "cuda/engine.py",
        "gta_ref/core/mask.py",
        "notebooks/03_cache_accounting.py",
        "notebooks/exercises/solutions/ex03_shared_map.py",
        "tests/core/test_mask.py",
    }
    assert not any(name.startswith(("docs/_build", "docs/notebooks", ".venv")) for name in names)
    assert not names & {"docs/prose.py", "tests/docs/test_prose.py"}
