"""The mechanisms, one per module, all with the same functions.

``Config``, ``param_shapes``, ``init``, ``forward``, ``backward``, ``decode``, ``structure`` and ``small_sizes``; see
``docs/design.md``. :func:`load` returns a mechanism's module by its name.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from gta_ref.errors import check_choice

# The one list of mechanisms: each name is that of a module in this folder.
NAMES = ("gta", "mha", "gqa", "mla", "gva", "gha")


def load(name: str) -> ModuleType:
    """Import the mechanism called `name`.

    Parameters
    ----------
    name : str
        One of NAMES.

    Raises
    ------
    ValueError
        On another name.
    """
    check_choice("mechanism", name, NAMES)
    return importlib.import_module(f"gta_ref.mechanisms.{name}")
