"""What the tests of the site share: its files, which are no package, and whether Sphinx is there to build with."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load(path):
    """Import a Python file of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


needs_sphinx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_nb", "furo", "math_core", "numpydoc")),
    reason="the packages of the site are not installed: make docs",
)
