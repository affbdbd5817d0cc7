"""The settings of Sphinx. `make docs` builds docs/_build/html without a network, and the pages need none either."""

import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from gta_ref import __version__  # noqa: E402

warnings.filterwarnings("ignore", "Unknown section Args")  # caused by a docstring of numba that is not shown

project = "gta_ref"
author = "the authors of gta_ref"
copyright = "the authors of gta_ref; code Apache-2.0, texts and figures CC BY 4.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    # in _ext/
    "mathml",
    "modules",
    "commands",
    "conformance",
    "notebooks",
    "exercises",
    "alt",
    "tables",
    "explorer",
    "folds",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "examples", "slides", "**/.ipynb_checkpoints"]

# pages and notebooks
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # `make notebooks` executes the notebooks; the site shows the outputs stored in them
nb_ipywidgets_js = {}  # the default would be loaded from another host
nb_merge_streams = True

# API reference: docstrings state the types and shapes, signatures only names and defaults
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_mock_imports = ["cupy"]
numpydoc_show_class_members = False
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True
default_role = "code"  # the role of `name` in a docstring

html_theme = "furo"
html_title = f"gta_ref {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["scroll.js"]
html_copy_source = False
html_show_sphinx = False
