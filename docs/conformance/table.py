"""The tables of docs/examples/adapters: which implementations there are, and what is known about them."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ADAPTERS = Path(__file__).parents[1] / "examples" / "adapters"
KINDS = ("convention", "limitation", "bug")
TOLD = ("mask", "flag", "bounds", "bias", "module")


@dataclass(frozen=True)
class Known:
    """Why some cases of an implementation fail."""

    cases: tuple[str, ...]
    kind: str
    text: str
    dtypes: tuple[str, ...] = ()
    says: str = ""
    finding: str | None = None

    def holds(self, case: str, dtype: str, text: str) -> bool:
        """Whether it is about this case, of which the report has this text."""
        named = any(fnmatch.fnmatchcase(case, pattern) for pattern in self.cases)
        return named and (not self.dtypes or dtype in self.dtypes) and self.says in text


@dataclass(frozen=True)
class Implementation:
    """One entry of implementations.toml; README.md beside it describes the keys."""

    name: str
    library: str
    object: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    told: str
    adapter: str
    suite: str = "attention"
    arrays: str | None = None
    capabilities: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    minutes: float = 10.0
    known: tuple[Known, ...] = ()

    @property
    def path(self) -> str:
        """The implementation as the kit's --impl has it."""
        return f"docs.examples.adapters.{self.object}"

    def shown(self) -> dict[str, Any]:
        """What the results repeat of the table."""
        keys = ("name", "library", "object", "dtypes", "told", "adapter", "suite")
        return {key: getattr(self, key) for key in keys}


def implementations() -> list[Implementation]:
    """All entries, in the order of the file.

    Raises
    ------
    ValueError
        If a name occurs twice, or a word is none of those that are known.
    """
    listed = tomllib.loads((ADAPTERS / "implementations.toml").read_text(encoding="utf-8")).get("implementation", [])
    found = []
    for entry in listed:
        known = tuple(Known(**{key: _tuple(x) for key, x in one.items()}) for one in entry.pop("known", []))
        found.append(Implementation(**{key: _tuple(x) for key, x in entry.items()}, known=known))
    names = [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1:
            raise ValueError(f"implementations.toml has the name {one.name!r} twice")
        if one.told not in TOLD:
            raise ValueError(f"told={one.told!r} of {one.name!r}; expected one of {', '.join(TOLD)}")
        for reason in one.known:
            if reason.kind not in KINDS:
                raise ValueError(f"kind={reason.kind!r} of {one.name!r}; expected one of {', '.join(KINDS)}")
    return found


def findings() -> list[dict[str, Any]]:
    """The entries of findings.toml."""
    found: list[dict[str, Any]] = tomllib.loads((ADAPTERS / "findings.toml").read_text(encoding="utf-8")).get(
        "finding", []
    )
    return found


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
