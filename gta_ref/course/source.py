"""The code of an answer: read from a notebook or a Python file, and run cell by cell, as a student ran it."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

CELL = re.compile(r"(?m)^(?=# %%)")  # where a cell begins in jupytext's percent format
MAGIC = re.compile(r"(?m)^[ \t]*[%!].*$")
LARGEST = 50 * 2**20  # bytes of a file


def cells(path: Path) -> list[str]:
    """Read the code cells of a notebook, or those of a Python file, which without ``# %%`` is a single cell.

    Raises
    ------
    ValueError
        If the file is too large, no text, or no notebook.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"the file has {size / 2**20:.0f} MiB; expected at most {LARGEST // 2**20}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the file is no text in UTF-8") from None
    if path.suffix == ".py":
        return [cell for cell in CELL.split(text) if not cell.startswith(("# %% [markdown]", "# %% [raw]"))]
    try:
        found = json.loads(text)["cells"]
        code = [cell["source"] for cell in found if cell["cell_type"] == "code"]
        return ["".join(source) for source in code]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the file is not a complete notebook") from None


def run(path: Path, folder: Path) -> tuple[dict[str, Any], str | None]:
    """Run the cells one after the other in this process; a cell that fails does not keep the next from running.

    Parameters
    ----------
    path : Path
        The notebook or Python file.
    folder : Path
        Where the cells are written, as files, so that their source is found.

    Returns
    -------
    names : dict
        What the cells defined.
    problem : str or None
        The first error, with its cell.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module  # what a notebook is to its functions
    names, problem = module.__dict__, None
    names["display"] = lambda *shown, **options: None
    for number, text in enumerate(cells(path), start=1):
        file = folder / f"cell{number}.py"
        try:
            code = _compile(text, file)
            exec(code, names)
        except BaseException as error:  # sys.exit too: it ends a cell, not the grading
            problem = problem or f"code cell {number} ends with {_text(error)}"
    return names, problem


def _compile(text: str, file: Path) -> types.CodeType:
    """Compile a cell; lines that are IPython's own, such as ``%matplotlib inline``, are left out if Python refuses."""
    try:
        code = compile(text, str(file), "exec")
    except SyntaxError:
        text = MAGIC.sub("", text)
        code = compile(text, str(file), "exec")
    file.write_text(text, encoding="utf-8")
    return code


def _text(error: BaseException) -> str:
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
