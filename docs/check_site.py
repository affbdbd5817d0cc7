"""Check a built site: internal links, formulas, texts for images, and that no page loads anything from another host.

Usage: python docs/check_site.py docs/_build/html
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

TEX = re.compile(r"\\[A-Za-z]{2,}|\\[()\[\]]|\$\$")  # the remains of a formula that was not converted
FILE_NAME = re.compile(r"\b[0-9a-f]{12,}|\.(?:png|svg|jpe?g|gif)\b")
VERBATIM = {"pre", "code", "script", "style", "math"}
# attributes with addresses that a browser fetches by itself, unlike a link in the text
FETCHED = {
    "img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "link": "href",
}  # fmt: skip
NOT_FETCHED = {"canonical", "index", "search", "next", "prev", "author", "license"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Page(HTMLParser):
    """The content of one page that is checked."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    formulas: int = 0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []  # the open elements, and whether each must contain a formula
        self.feed(self.path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record ids, links, and addresses that a browser fetches."""
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        classes = values.get("class", "").split()
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in FETCHED and not NOT_FETCHED & set(values.get("rel", "").split()):
            self.fetched.append(values.get(FETCHED[tag], ""))
        if tag == "img" and not described(values):
            self.faults.append(f"an image without an alternative text: {values.get('src', '')[:80]!r}")
        if tag == "math":
            self.formulas += 1
            self.open = [(name, False) for name, _ in self.open]
        if tag == "merror" or "problematic" in classes or "system-message" in classes:
            self.faults.append(f"<{tag} class={' '.join(classes)!r}>: Sphinx or the browser reports an error there")
        if tag not in VOID:
            self.open.append((tag, "math" in classes and tag in ("span", "div")))

    def handle_endtag(self, tag: str) -> None:
        """Close elements up to the one of this tag, and report a missing formula."""
        while self.open:
            name, waits = self.open.pop()
            if waits:
                self.faults.append("a formula without <math> in it")
            if name == tag:
                break

    def handle_data(self, data: str) -> None:
        """Look for TeX in the text that a reader sees."""
        if not VERBATIM & {name for name, _ in self.open} and (found := TEX.search(data)):
            self.faults.append(f"raw TeX: {data[max(0, found.start() - 20) : found.end() + 20].strip()!r}")


def described(image: dict[str, str]) -> bool:
    """Whether an <img> has an alternative text in words; if a page gives none, Sphinx writes the file's name."""
    alt = image.get("alt", "")
    if image.get("class") == "toggler":  # the sign that folds a part of Sphinx's list of modules
        return bool(alt)
    return len(alt.split()) > 1 and not FILE_NAME.search(alt)


def faults(site: Path) -> tuple[list[str], dict[str, int]]:
    """Return one line of text per fault, and the numbers of pages, links and formulas that were checked.

    Raises
    ------
    ValueError
        If the folder has no page.
    """
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        raise ValueError(f"{site}: no *.html there; build the site first")
    found, inside = [], 0
    for path, page in pages.items():
        wrong = list(page.faults)
        for link in page.links + page.fetched:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            inside += 1
            wrong += _missing(path, link, pages)
        wrong += [f"needs another host: {link[:80]}" for link in page.fetched if link.startswith(("http", "//"))]
        found += [f"{path.relative_to(site.resolve())}: {fault}" for fault in wrong]
    for sheet in sorted(site.rglob("*.css")):
        hosts = re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(site)}: needs another host: {host}" for host in hosts]
    return found, {"pages": len(pages), "links": inside, "formulas": sum(page.formulas for page in pages.values())}


def _missing(path: Path, link: str, pages: dict[Path, Page]) -> list[str]:
    """The faults of an internal link."""
    file, anchor = urldefrag(link)
    target = (path.parent / unquote(urlsplit(file).path)).resolve() if file else path
    if not target.exists():
        return [f"link to nothing: {link}"]
    if anchor and target in pages and unquote(anchor) not in pages[target].ids:
        return [f"link to a place that is not there: {link}"]
    return []


def main() -> int:
    """Run the check as a command and return its exit status."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found, counts = faults(Path(sys.argv[1]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for fault in found:
        print(fault)
    print(", ".join(f"{n} {name}" for name, n in counts.items()) + f": {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
