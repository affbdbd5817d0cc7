"""What a check cannot use, in words: the type of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """Stands for what a function returned and a check cannot use, such as a tensor: its kind, in words."""

    kind: str


def kind(x: Any) -> str:
    """The type of x in words, with its library if it is not one of Python's own."""
    if isinstance(x, Foreign):
        return x.kind
    module = type(x).__module__
    name = type(x).__name__ if module == "builtins" else f"{module.partition('.')[0]}.{type(x).__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
