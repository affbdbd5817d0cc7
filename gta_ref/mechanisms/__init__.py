"""One mechanism a file, all with the same functions.

``Config``, ``init``, ``forward``, ``backward``, ``decode``, ``structure`` and ``param_shapes``; see
``docs/design.md``. :func:`load` gives a mechanism's module by its name.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from gta_ref.errors import check_choice

NAMES = ("gta", "mha", "gqa", "mla", "gva", "gha")


def load(name: str) -> ModuleType:
    """Import the mechanism called `name`."""
    check_choice("mechanism", name, NAMES)
    return importlib.import_module(f"gta_ref.mechanisms.{name}")
