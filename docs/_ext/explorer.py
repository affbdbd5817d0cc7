"""The explorer, a page of its own with scripts in ``explorer/``: copied as it is beside the pages of the site."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx


def on_finished(app: Sphinx, error: Exception | None) -> None:
    """Copy the folder once the pages are written; a link to it then works on the site as it does in the tree."""
    source, target = Path(app.srcdir) / "explorer", Path(app.outdir) / "explorer"
    if error is None and app.builder.format == "html" and source.is_dir():
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree(source, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("build-finished", on_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
