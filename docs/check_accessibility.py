"""Check a built site with axe-core in headless Chromium: light and dark, 1280 and 390 px wide.

Usage: python docs/check_accessibility.py docs/_build/html build/axe-core-VERSION/package/axe.min.js

`make docs` fetches axe-core with npm. Without it, Chromium or node, nothing is checked, and a line says what is
missing.
A finding is one line: the page, the views in which it was found, the rule, and the element as a CSS selector.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "tests" / "docs" / "axe.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 900  # seconds for the whole site

View = dict[str, Any]
# every page is seen in the first two, and one page of each folder in all of them
VIEWS: list[View] = [
    {"width": width, "scheme": scheme}
    for width, scheme in ((1280, "light"), (390, "dark"), (1280, "dark"), (390, "light"))
]
# pages that show only a part of themselves at first, and the addresses that show the rest
MORE = {"gta-slides.html": ["?view=print"], "explorer/index.html": ["?predict=1", "?m=mla&vs=gqa-1b"]}
# pages that are all made in one way, from docstrings and from sources: about four of each are enough
ALIKE, ENOUGH = ("api/", "_modules/"), 4


def missing(axe: Path) -> list[str]:
    """What the check needs and this machine does not have."""
    found = [] if shutil.which("node") else ["node"]
    found += ["Chromium"] if browser() is None else []
    return found + ([] if axe.is_file() else [f"axe-core ({axe})"])


def browser() -> str | None:
    """The path of Chromium or Chrome."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def addresses(site: Path) -> list[str]:
    """The addresses to look at: every page that was written, and a few of those that are made from the code.

    Raises
    ------
    ValueError
        If the folder has no page.
    """
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    if not pages:
        raise ValueError(f"{site}: no *.html there; build the site first")
    left_out: set[str] = set()
    for folder in ALIKE:
        made = [page for page in pages if page.startswith(folder) and page != f"{folder}index.html"]
        left_out |= set(made) - set(made[:: max(1, len(made) // ENOUGH)])
    found = []
    for page in pages:
        if page not in left_out:
            more = next((more for name, more in MORE.items() if page.endswith(name)), [])
            found += [page, *(page + query for query in more)]
    return found


def views(pages: list[str]) -> list[list[View]]:
    """How to look at each page: the first page of a folder in every view."""
    folders = [page.partition("?")[0].rpartition("/")[0] for page in pages]
    return [VIEWS if folder not in folders[:i] else VIEWS[:2] for i, folder in enumerate(folders)]


def findings(site: Path, pages: list[str], axe: Path) -> list[dict[str, Any]]:
    """What axe-core reports of the pages: each with page, width, scheme, rule, impact, help, selector and why.

    Raises
    ------
    RuntimeError
        If the browser cannot be started or a page cannot be opened.
    """
    root = site.resolve().as_uri()
    asked = [{"address": f"{root}/{page}", "views": seen} for page, seen in zip(pages, views(pages), strict=True)]
    command = ["node", str(SCRIPT), str(browser()), str(axe)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [{"page": page} | one for page, answer in zip(pages, answers, strict=True) for one in answer["found"]]


def report(found: list[dict[str, Any]]) -> list[str]:
    """One line for each element and rule, with the views in which it was found."""
    views: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        key = tuple(one[name] for name in ("page", "impact", "rule", "selector", "why"))
        views.setdefault(key, []).append(f"{one['width']} px {one['scheme']}")
    return [
        f"{page} ({', '.join(seen)}): {impact}: {rule}: {selector}: {why}"
        for (page, impact, rule, selector, why), seen in views.items()
    ]


def main() -> int:
    """Run the check as a command and return its exit status."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    site, axe = map(Path, sys.argv[1:])
    if lacking := missing(axe):
        print(f"accessibility is not checked: {', '.join(lacking)} not there")
        return 0
    try:
        pages = addresses(site)
        lines = report(findings(site, pages, axe))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n", end="\n" if lines else "")
    seen = sum(map(len, views(pages)))
    print(f"{len(pages)} pages in {seen} views: {len(lines)} findings of axe-core")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
